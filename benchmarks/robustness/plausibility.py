"""How often ordinary held-out cases would be called implausible, by the labels and images of real data sets.

    python benchmarks/robustness/plausibility.py ../shared/data --draws 200

Of each set some subjects are drawn as the training cases; the true labels and the images of all others take the place
of results, so that every warning is a false alarm, but for labels that really are unlike the others. The same images,
inverted, must be told, as far as that can be seen. Nothing is trained. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg.bundle.training_facts import (
    PERCENTILES,
    ChannelFacts,
    Spread,
    StructureFacts,
    TrainingFacts,
    measures,
    percentiles_of,
)
from medseg.config.pipeline import DataSpec, Intensity
from medseg.manifest.manifest import Manifest
from medseg.planning.fingerprint import along_ras_axes
from medseg.portable.io.header import Header
from medseg.portable.io.read import read_volume
from medseg.workflows.predict.plausibility.intensities import intensity_findings
from medseg.workflows.predict.plausibility.volumes import volume_findings

SETS = {
    "la": ("dataset_40.json", Intensity()),
    "acdc": ("dataset_42.json", Intensity()),
    "btcv": ("dataset_22.json", Intensity(kind="window", low=0, high=255, mean=158, std=39)),
}
TRAINING = (1, 2, 4, 8, 16)


@dataclass(frozen=True, eq=False)
class Known:
    """One case."""

    subject: str
    labels: np.ndarray
    counts: np.ndarray
    header: Header
    percentiles: np.ndarray
    inverted: np.ndarray

    @property
    def lengths_mm(self) -> np.ndarray:
        """Its field of view along x, y, z."""
        return np.multiply(*along_ras_axes(self.header))


def read_set(manifest: Manifest) -> list[Known]:
    """All cases with their labels."""
    found = []
    for case in manifest.training:
        image, header = read_volume(manifest.images(case)[0])
        label = manifest.label(case)
        assert label is not None
        labels = read_volume(label)[0][0].astype(np.uint8)
        counts = np.bincount(labels.ravel(order="K"), minlength=256)
        percentiles = percentiles_of(image[0])
        inverted = percentiles_of(image[0].max() - image[0].astype(np.float32))
        found.append(Known(case.subject or case.name, labels, counts, header, percentiles, inverted))
    return found


def facts_of(cases: list[Known], manifest: Manifest, rule: Intensity) -> TrainingFacts:
    """What a model would keep that was trained on these cases."""
    structures = {}
    for value in manifest.structures:
        volumes = [case.counts[value] * float(np.prod(case.header.spacing_mm)) / 1000 for case in cases]
        subjects = {case.subject for case in cases if case.counts[value]}
        there = [volume for volume in volumes if volume]
        structures[value] = StructureFacts(
            cases=len(cases),
            absent=len(cases) - len(there),
            subjects=len(subjects),
            size=Spread.of(there) if there else None,
        )
    of_images = np.array([case.percentiles for case in cases])
    compared = [measures(each, rule) for each in of_images]
    contrast = [value for _, value in compared if value is not None]
    channel = ChannelFacts(
        images=len(cases),
        percentiles={str(q): Spread.of(of_images[:, number]) for number, q in enumerate(PERCENTILES)},
        brightness=Spread.of([value for value, _ in compared if value is not None]),
        contrast=Spread.of(contrast) if contrast else None,
    )
    return TrainingFacts(date="", versions={}, cases={}, structures=structures, channels=(channel,))


def spec_of(cases: list[Known], manifest: Manifest, rule: Intensity) -> DataSpec:
    """What the plan would say of these cases."""
    smallest = np.min([case.lengths_mm for case in cases], axis=0).tolist()
    return DataSpec(
        labels=manifest.labels, modality=manifest.modalities, spacing_mm=(1, 1, 1), patch=(16, 16, 16),
        intensity=rule, smallest_mm=tuple(smallest),
    )  # fmt: skip


def main() -> None:
    """Draw, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--draws", type=int, default=200)
    options = parser.parse_args()
    manifests = {name: Manifest.load(options.data / name / file) for name, (file, _) in SETS.items()}
    cases = {name: read_set(manifest) for name, manifest in manifests.items()}
    rng = np.random.default_rng(0)
    print("| set | subjects | structure, % | case, % | absent, % | intensities, % | " + " | ".join(told(SETS)) + " |")
    print("|---" * (6 + len(told(SETS))) + "|")
    for name, (_, rule) in SETS.items():
        subjects = np.unique([case.subject for case in cases[name]])
        for number in TRAINING:
            rows = []
            for _ in range(options.draws):
                chosen = set(rng.permutation(subjects)[:number])
                trained = [case for case in cases[name] if case.subject in chosen]
                held_out = [case for case in cases[name] if case.subject not in chosen]
                facts, spec = facts_of(trained, manifests[name], rule), spec_of(trained, manifests[name], rule)
                rows.append([*false_alarms(held_out, spec, facts), *alarms(cases, name, held_out, spec, facts)])
            text = " | ".join(f"{100 * value:.1f}" for value in np.mean(rows, axis=0))
            print(f"| {name} | {number} | {text} |", flush=True)


def told(names: dict) -> list[str]:
    """Headings of what should be told, or should not."""
    return [f"images of {name}" for name in names] + ["inverted"]


def false_alarms(held_out: list[Known], spec: DataSpec, facts: TrainingFacts) -> list[float]:
    """Shares: of structures, of cases with any of these, of cases where one is missed, of odd intensities."""
    structures, with_any, absent, odd = 0, 0, 0, 0
    for case in held_out:
        found = volume_findings(case.labels, case.counts, case.header, spec, facts)
        sizes = [each for each in found if each.kind == "volume"]
        structures += len(sizes)
        with_any += bool(sizes)
        absent += len(sizes) < len(found)
        odd += bool(intensity_findings([case.percentiles], spec, facts.channels, is_cut=False))
    count = len(held_out)
    return [structures / count / len(spec.structures), with_any / count, absent / count, odd / count]


def alarms(
    cases: dict[str, list[Known]], own: str, held_out: list[Known], spec: DataSpec, facts: TrainingFacts
) -> list[float]:
    """Shares of the images of each set, and of the held-out ones inverted, whose intensities are odd."""
    images = [[case.percentiles for case in (held_out if name == own else cases[name])] for name in SETS]
    images.append([case.inverted for case in held_out])
    shares = []
    for percentiles in images:
        odd = [bool(intensity_findings([each], spec, facts.channels, is_cut=False)) for each in percentiles]
        shares.append(float(np.mean(odd)))
    return shares


if __name__ == "__main__":
    main()
