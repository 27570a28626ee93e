"""Which study a folder's results are of: no study's results take the place of another's.

A study is the same if an image of it is, by its path or by its content; where there is no image, if a rater's file
is. Raters may come and go, and annotate anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from medseg.atomic import folds_case, real_path, same_name
from medseg.consensus.io.file_names import is_series
from medseg.dicom.scan.series import open_series
from medseg.errors import ConfigError, DataError, ManifestError
from medseg.manifest.manifest import Manifest
from medseg.records import RECORD, digest_of, read_record
from medseg.workflows.consensus.collect_studies import Item

IMAGE, CONTENT, RATERS = "image", "image_sha256", "annotations"


def image_digest(path: Path, uid: str | None) -> str:
    """SHA-256 of an image; of a series its own files count, and not what else is written into its folder."""
    return open_series(path, uid).digest() if path.is_dir() and is_series(path) else digest_of(path)


def source_of(item: Item, uid: str | None) -> dict[str, list[str]]:
    """What tells a study from others.

    Args:
        item: the study.
        uid: of its image's DICOM series, if one is given.

    Raises:
        DataError: the image cannot be read.
    """
    return {**_places(item, uid), CONTENT: [image_digest(path, uid) for path in item.images]}


def _places(item: Item, uid: str | None) -> dict[str, list[str]]:
    series = f" series {uid}" if uid else ""
    return {
        IMAGE: [f"{real_path(path)}{series}" for path in item.images],
        RATERS: [str(real_path(path)) for path in item.annotations],
    }


def refuse_another(item: Item, uid: str | None, folder: Path) -> None:
    """See that a folder does not hold the results of another study.

    Args:
        item: the study.
        uid: of its image's DICOM series, if one is given.
        folder: of its results.

    Raises:
        ConfigError: it does, by its record.
        DataError: the image cannot be read.
    """
    before = _recorded(folder / RECORD)
    if before is None or _same(item, uid, before):
        return
    mine, theirs = (_named(source) for source in (_places(item, uid), before))
    raise ConfigError(f"holds the consensus of {theirs} and not of {mine}", path=folder, hint="choose another --output")


def refuse_others(items: Iterable[Item], uid: str | None, output: Path) -> None:
    """See that of many studies none takes the place of another, of these or of earlier ones.

    Args:
        items: the studies.
        uid: of their images' DICOM series, if one is given.
        output: in which each has a folder of its name.

    Raises:
        ConfigError: one would.
    """
    one_name = same_name if folds_case(output) else str
    seen: dict[str, Item] = {}
    for item in items:
        other = seen.setdefault(one_name(item.name), item)
        if other is not item:
            first, second = ((*each.images, *each.annotations)[0] for each in (other, item))
            what = f"{first} and {second} would both have their results in {output / item.name}"
            raise ConfigError(what, hint="rename one of them")
        with suppress(DataError):  # told when it is fused
            refuse_another(item, uid, output / item.name)


def refuse_other_manifest(manifest: Manifest, path: Path) -> None:
    """See that the manifest of the results does not take the place of another data set's.

    Args:
        manifest: of the studies.
        path: where their labels will be listed.

    Raises:
        ConfigError: a file is there that lists none of these images, and not cases of these names either.
    """
    if not path.exists():
        return
    try:
        before = Manifest.load(path)
    except ManifestError:
        before = None
    if before is not None:
        one, other = (set(_images(each)) for each in (manifest, before))
        if one & other or {case.name for case in manifest.cases} == {case.name for case in before.cases}:
            return
    what = f"is there already and lists no image of {manifest.path}"
    raise ConfigError(what, path=path, hint="choose another --output")


def _images(manifest: Manifest) -> Iterator[Path]:
    for case in manifest.cases:
        yield from (real_path(path) for path in manifest.images(case))


def refuse_without_record(folder: Path, products: Sequence[Path]) -> None:
    """See that results do not take the place of files that have no record.

    Raises:
        DataError: they would.
    """
    there = [path for path in products if path.exists()]
    if there and _recorded(folder / RECORD) is None:
        what = "is there already, and no record says of which study"
        raise DataError(what, path=there[0], hint="choose another --output, or remove it")


def _same(item: Item, uid: str | None, before: Mapping[str, Any]) -> bool:
    now = _places(item, uid)
    if not (now[IMAGE] and before[IMAGE]):
        return bool(set(now[RATERS]) & set(before[RATERS]))
    if set(now[IMAGE]) & set(before[IMAGE]):
        return True
    return bool({image_digest(path, uid) for path in item.images} & set(before[CONTENT]))


def _named(source: Mapping[str, list[str]]) -> str:
    return " and ".join(source[IMAGE] or source[RATERS])


def _recorded(record: Path) -> dict[str, list[str]] | None:
    """What `source_of` said of the study that a folder was begun for."""
    source = read_record(record).get("source")
    if not isinstance(source, dict):
        return None
    found = {}
    for key in (IMAGE, CONTENT, RATERS):
        if not isinstance(source.get(key), list):
            return None
        found[key] = [str(value) for value in source[key]]
    return found
