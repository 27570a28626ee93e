"""Options of `medseg consensus`, checked before any file is opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from yaml import YAMLError

from medseg.config.yaml_values import load_yaml
from medseg.errors import ConfigError
from medseg.options import Option, check_types, plain
from medseg.structure_names import same_structure

SOFT = ("uint8", "float16")
FORMATS = {"nifti": ".nii.gz", "nrrd": ".seg.nrrd", "dicom-seg": ".dcm", "rtstruct": ".rtstruct.dcm"}
"""What `--format` takes, and the ending of each."""
AUTO = "auto"
MISSING_VALUE = "255"
STUDIES, METHOD, FILES, RESULTS, WORK = "Studies", "Method", "How files are read", "Results", "Many studies"
METHOD_OPTIONS = ("weights", "smoothness", "neighbours", "ssl", "tie", "seed")
OF_A_RESULT = ("method", *METHOD_OPTIONS, "settings", "series", "missing_value", "region", "partial", "label",
               "probabilities", "channel", "resample", "nan", "compare", "reference", "export_soft", "tolerance_mm",
               "report", "viewer", "format")  # fmt: skip
"""The options that the results of one study depend on."""


@dataclass(frozen=True)
class ConsensusOptions:
    """Which studies to fuse, how, and what to write."""

    output: Annotated[Path, Option("Folder to write.", ("--output", "-o"))]

    image: Annotated[
        tuple[Path, ...],
        Option("The image, one file per channel; a DICOM folder; or a folder of images.", ("--image", "-i"), STUDIES),
    ] = ()
    annotation: Annotated[
        tuple[Path, ...],
        Option("A rater's file or folder; repeat for each rater.", ("--annotation", "-a"), STUDIES),
    ] = ()
    name: Annotated[tuple[str, ...], Option("Of each rater, in the same order.", group=STUDIES)] = ()
    data: Annotated[Path | None, Option("Manifest whose cases have annotations: fuse them all.", group=STUDIES)] = None
    section: Annotated[str | None, Option("List of the manifest; default all.", group=STUDIES)] = None
    studies: Annotated[
        Path | None, Option("MONAI Label studies folder: fuse labels/TAG of each image.", group=STUDIES)
    ] = None
    tag: Annotated[
        tuple[str, ...], Option("Which tags are raters; default all but final and original.", group=STUDIES)
    ] = ()

    method: Annotated[str, Option("gcssl, majority, staple, ml-staple, simple or sba.", ("--method", "-m"), METHOD)] = (
        "gcssl"
    )
    weights: Annotated[
        str | None, Option("logodds, consistency, sc, uniform, or numbers: 0.5,0.3,0.2.", group=METHOD)
    ] = None
    smoothness: Annotated[float | None, Option("Total smoothness; 0 for the weighted vote.", group=METHOD)] = None
    neighbours: Annotated[int | None, Option("4 or 8 in a 2D image, 6, 18 or 26 in a volume.", group=METHOD)] = None
    ssl: Annotated[bool | None, Option("Whether raters vote where they left something out.", group=METHOD)] = None
    tie: Annotated[str | None, Option("Of majority: background, lowest, undecided or prior.", group=METHOD)] = None
    seed: Annotated[int | None, Option("Of what is random in the method.", group=METHOD)] = None
    settings: Annotated[tuple[str, ...], Option("Any other option of the method: NAME=VALUE.", ("--set",), METHOD)] = ()

    missing_value: Annotated[str, Option("Label value of what was not annotated, or none.", group=FILES)] = (
        MISSING_VALUE
    )
    region: Annotated[tuple[str, ...], Option("NAME=FILE: mask of what the rater annotated.", group=FILES)] = ()
    partial: Annotated[
        tuple[str, ...],
        Option("NAME:CLASS: the rater did not look for it; auto: find such.", ("--partial-protocol",), FILES),
    ] = ()
    label: Annotated[tuple[str, ...], Option("VALUE=NAME of a class.", group=FILES)] = ()
    probabilities: Annotated[bool, Option("Files of fractions or several channels are probabilities.", group=FILES)] = (
        False
    )
    channel: Annotated[str | None, Option("Of an image with several: a number from 0, or all.", group=FILES)] = None
    series: Annotated[
        str | None, Option("UID of the image's DICOM series, if its folder holds several.", group=FILES)
    ] = None
    resample: Annotated[str | None, Option("nearest or linear: bring other grids to the image's.", group=FILES)] = None
    nan: Annotated[str | None, Option("zero: replace NaN in the image.", group=FILES)] = None

    compare: Annotated[bool, Option("Also run every other method and compare.", group=RESULTS)] = False
    reference: Annotated[
        Path | None, Option("True labels, to measure against; no method sees them.", group=RESULTS)
    ] = None
    export_soft: Annotated[
        str | None, Option("uint8 or float16: also write each class's share of votes.", group=RESULTS)
    ] = None
    tolerance_mm: Annotated[float, Option("Of the surface Dice, in mm.", group=RESULTS)] = 1.0
    format: Annotated[
        str | None,
        Option("nifti, nrrd (with names), dicom-seg or rtstruct; default as the annotations.", group=RESULTS),
    ] = None
    report: Annotated[bool, Option("Write report.html.", group=RESULTS)] = True
    viewer: Annotated[bool, Option("With an interactive viewer in it (2.5 MB).", group=RESULTS)] = True

    jobs: Annotated[int | None, Option("Processes for many studies; default one per core.", group=WORK)] = None
    num_shards: Annotated[int, Option("Split the studies over this many commands.", group=WORK)] = 1
    shard: Annotated[int, Option("Which part this command does, from 0.", group=WORK)] = 0
    write_back: Annotated[bool, Option("Copy each consensus to labels/final of --studies.", group=WORK)] = False
    overwrite: Annotated[bool, Option("Do finished studies again.", group=WORK)] = False
    strict: Annotated[bool, Option("Stop at the first study that fails.", group=WORK)] = False

    def __post_init__(self) -> None:
        check_types(self)
        self._check_studies()
        self._check_results()
        self._check_work()
        # what cannot be understood is told now
        self.method_options  # noqa: B018
        self.reading  # noqa: B018

    def _check_studies(self) -> None:
        files = bool(self.image or self.annotation)
        if files + (self.data is not None) + (self.studies is not None) != 1:
            raise ConfigError("give either --annotation (with --image), or --data, or --studies")
        if self.name and not files:
            raise ConfigError("--name belongs to --annotation; manifests and tags name the raters themselves")
        if self.data is not None and self.label:
            raise ConfigError(
                f"--label {self.label[0]}: the manifest of --data names the values; accepted is none beside it"
            )
        if self.data is not None and self.missing_value != MISSING_VALUE:
            what = f"--missing-value {self.missing_value}: the manifest of --data says it, by its ignore_index"
            raise ConfigError(f"{what}; accepted is none beside it")
        if self.section is not None and self.data is None:
            raise ConfigError(f"--section {self.section} belongs to --data")
        if self.tag and self.studies is None:
            raise ConfigError("--tag belongs to --studies")
        if self.write_back and self.studies is None:
            raise ConfigError("--write-back belongs to --studies")

    def _check_results(self) -> None:
        if self.export_soft not in (None, *SOFT):
            raise ConfigError(f"--export-soft {self.export_soft}: accepted are {' and '.join(SOFT)}")
        if self.format not in (None, *FORMATS):
            raise ConfigError(f"--format {self.format}: accepted are {', '.join(FORMATS)}")
        if not self.tolerance_mm > 0:
            raise ConfigError(f"--tolerance-mm {self.tolerance_mm}: a length > 0 is wanted")

    def _check_work(self) -> None:
        if self.num_shards < 1 or not 0 <= self.shard < self.num_shards:
            raise ConfigError(f"--shard {self.shard} of --num-shards {self.num_shards}: shards are counted from 0")
        if self.jobs is not None and self.jobs < 1:
            raise ConfigError(f"--jobs {self.jobs}: a number > 0 is wanted")

    @cached_property
    def method_options(self) -> Any:
        """The dataclass of options that the method takes, with the values that were given.

        Raises:
            ConfigError: an unknown method or option, a value that it does not take, or an option given twice.
        """
        from medseg.consensus.fuse import resolve_options  # needs numpy, which `medseg --help` should not wait for

        return resolve_options(self.method, self._given_to_method())

    def _given_to_method(self) -> dict[str, Any]:
        """Options of the method by name: those with a flag of their own, and `name=value` settings."""
        chosen = {name: getattr(self, name) for name in METHOD_OPTIONS if getattr(self, name) is not None}
        if "weights" in chosen:
            chosen["weights"] = _weights(chosen["weights"])
        for text in self.settings:
            name, equals, value = text.partition("=")
            if not equals or not name.isidentifier():
                raise ConfigError(f"--set {text}: accepted is NAME=VALUE, an option of the method")
            if name in chosen:
                raise ConfigError(f"--set {text}: {name} is given twice")
            try:
                chosen[name] = load_yaml(value)
            except YAMLError as error:
                raise ConfigError(f"--set {text[:100]}: {value[:60]!r} is no YAML value") from error
        return chosen

    @cached_property
    def reading(self) -> dict[str, Any]:
        """How files are understood: fields of `medseg.consensus.io.formats.Reading`.

        Raises:
            ConfigError: words that mean nothing.
        """
        return {
            "missing": _missing_value(self.missing_value),
            "regions": _regions(self.region),
            "partial": tuple(_pairs("--partial-protocol", [text for text in self.partial if text != AUTO], ":")),
            "find_partial": AUTO in self.partial,
            "labels": _class_names(self.label),
            "channel": _channel(self.channel),
            "probabilities": self.probabilities,
            "resample": self.resample,
            "nan": self.nan,
            "series": self.series,
        }

    @property
    def report_name(self) -> str:
        """File name of the report of many studies."""
        part = "" if self.num_shards == 1 else f"_{self.shard}_of_{self.num_shards}"
        return f"consensus_report{part}.json"

    def of_a_result(self) -> dict[str, Any]:
        """The options that the results of one study depend on, as values for JSON."""
        every = plain(self)
        chosen = {name: every[name] for name in OF_A_RESULT}
        if self.format is None:  # results from before there was a choice are known again
            del chosen["format"]
        return chosen


def _weights(given: str) -> str | list[float]:
    """The value of --weights: a mode by name, or numbers with commas between them."""
    try:
        return [float(part) for part in given.split(",")]
    except ValueError:
        return given


def _missing_value(text: str) -> int | None:
    if text.lower() == "none":
        return None
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"--missing-value {text}: accepted is a label value, or none") from None


def _regions(given: Sequence[str]) -> dict[str, Path]:
    regions: dict[str, Path] = {}
    for name, file in _pairs("--region", given, "="):
        if name in regions:
            raise ConfigError(
                f"--region {name}={file}: {name} has {regions[name]} already; accepted is one file a rater"
            )
        regions[name] = Path(file)
    return regions


def _class_names(given: Sequence[str]) -> dict[int, str]:
    """Name of each value; that 0 is the background need not be said, and may."""
    from medseg.consensus.io.annotations.files import LARGEST  # needs numpy, as above

    names: dict[int, str] = {}
    for number, name in _pairs("--label", given, "="):
        option = f"--label {number}={name}"
        if not (number.isdecimal() and name.strip()):
            raise ConfigError(f"{option}: accepted is VALUE=NAME, a whole number and a name")
        value = int(number)
        if value > LARGEST or (value == 0 and not same_structure(name, "background")):
            raise ConfigError(f"{option}: accepted are values from 1 to {LARGEST}; 0 is the background")
        if value in names:
            raise ConfigError(f"{option}: {value} is called {names[value]} already; accepted is one name a value")
        names[value] = name
    return names


def _channel(text: str | None) -> int | str | None:
    if text is None or text == "all":
        return text
    if not text.isdecimal():
        raise ConfigError(f"--channel {text}: accepted is a number from 0, or all")
    return int(text)


def _pairs(option: str, given: Sequence[str], between: str) -> list[tuple[str, str]]:
    pairs = []
    for text in given:
        first, found, second = text.partition(between)
        if not (found and first and second):
            raise ConfigError(f"{option} {text}: accepted is A{between}B, see --help")
        pairs.append((first, second))
    return pairs
