"""What the reader of a layout gives: cases by list of the manifest, and what the layout says of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from medseg.errors import DataError
from medseg.manifest.fields import SUFFIX, stem
from medseg.manifest.manifest import SECTIONS, Case

STRUCTURES = "structures"
"""Key of a case, until its label is made: name of a structure -> file of its mask."""

ANNOTATION = "annotation"
"""Key of a case, until its label is made: a DICOM SEG or RTSTRUCT."""

PLACES = {
    "training": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "tests", "testing"),
}
"""List of the manifest -> names of a folder of its cases."""

Sections = dict[str, list[dict[str, Any]]]


@dataclass
class Found:
    """A data set as its files are laid out.

    Attributes:
        sections: list of the manifest -> its cases; paths are relative to the source, or absolute.
        modality: of each channel; empty: unknown.
        known_as: how the layout is told to the user; empty: not at all.
    """

    sections: Sections = field(default_factory=lambda: {name: [] for name in SECTIONS})
    modality: tuple[str, ...] = ()
    known_as: str = ""

    @property
    def cases(self) -> Iterator[dict[str, Any]]:
        """All cases, one list after the other."""
        for cases in self.sections.values():
            yield from cases

    def add(self, case: dict[str, Any], section: str = "training") -> None:
        """Enter a case; one without a label is `unlabeled`, unless it is of the list `test`."""
        self.sections[section if is_labelled(case) or section == "test" else "unlabeled"].append(case)


def is_labelled(case: dict[str, Any]) -> bool:
    """Whether a case has a label, or files of which one will be made."""
    return any(key in case for key in ("label", STRUCTURES, ANNOTATION))


def named(files: Sequence[Path], *, slicer: bool = False) -> dict[str, Path]:
    """Name without ending -> file.

    Args:
        files: of one folder.
        slicer: leave 3D Slicer's `.seg` of `a.seg.nrrd` to the name, where `a.nrrd` may lie beside it.

    Raises:
        DataError: two files differ in their endings only, as `a.nii` and `a.nii.gz` do.
    """
    found: dict[str, Path] = {}
    for file in files:
        name = stem(file.name)
        if slicer and file.name[len(name) :].casefold().startswith(".seg."):
            name += ".seg"
        other = found.setdefault(name, file)
        if other is not file:
            what = f"has {other.name} and {file.name}, both of the name '{name}'"
            raise DataError(what, path=file.parent, hint="rename or remove one of them")
    return found


def images_in(folder: Path) -> list[Path]:
    """Image files of a folder, by name; hidden ones are left out."""
    return sorted(p for p in folder.iterdir() if SUFFIX.search(p.name) and not p.name.startswith(".") and p.is_file())


def folders_in(folder: Path) -> list[Path]:
    """Folders of a folder, by name; hidden ones are left out."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def first_folder(source: Path, names: Sequence[str]) -> Path | None:
    """The first of these folders that exists, in capitals or not."""
    there = {path.name.casefold(): path for path in sorted(source.iterdir(), reverse=True) if path.is_dir()}
    return next((there[name.casefold()] for name in names if name.casefold() in there), None)


def refuse_unlabelled(found: Found, source: Path, hint: str) -> None:
    """See that a case has a label.

    Raises:
        DataError: none has.
    """
    if not any(is_labelled(case) for case in found.cases):
        raise DataError("has images but no label for any of them", path=source, hint=hint)


def name_apart(cases: Sequence[dict[str, Any]]) -> None:
    """Give cases names where those of their files would be the same: the subject, the folder, or the whole path."""
    usual = [Case.model_validate(_as_read(case)).name for case in cases]
    if len(set(usual)) == len(usual):
        return
    choices = (
        [str(case.get("subject", "")) for case in cases],
        [PurePath(case["image"][0]).parent.name for case in cases],
        [
            "_".join((*PurePath(case["image"][0]).parts[:-1], name)).strip("/_")
            for case, name in zip(cases, usual, strict=True)
        ],
    )
    for names in choices:
        if all(names) and len(set(names)) == len(names):
            for case, name in zip(cases, names, strict=True):
                case.setdefault("case", name)
            return


def _as_read(case: dict[str, Any]) -> dict[str, Any]:
    """A case as the manifest will have it."""
    return {key: value for key, value in case.items() if key not in (STRUCTURES, ANNOTATION)}


def describe(source: Path) -> str:
    """What a folder holds, for a refusal: `3 folders and 8 images (p0.nii.gz, ...)`.

    Examples:
        >>> from pathlib import Path
        >>> folder = Path("unknown")
        >>> (folder / "a").mkdir(parents=True)
        >>> for name in ("x.png", "y.png", "notes.txt"):
        ...     _ = (folder / name).write_bytes(b"")
        >>> describe(folder)
        '1 folder (a), 2 images (x.png, ...), 1 other file (notes.txt)'
    """
    images = [path.name for path in images_in(source)]
    kinds: dict[str, list[str]] = {
        "folder": [path.name for path in folders_in(source)],
        "image": images,
        "other file": sorted(
            p.name for p in source.iterdir() if p.is_file() and not p.name.startswith(".") and p.name not in images
        ),
    }
    told = []
    for kind, names in kinds.items():
        if names:
            more = ", ..." if len(names) > 1 else ""
            told.append(f"{len(names)} {kind}{'s' * (len(names) > 1)} ({names[0]}{more})")
    return ", ".join(told) or "nothing"
