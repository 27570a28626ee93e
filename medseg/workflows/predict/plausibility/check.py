"""One case after another compared with what the models keep of their training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medseg.bundle.bundle import OpenBundle
from medseg.bundle.training_facts import TrainingFacts, percentiles_of, read_facts
from medseg.errors import ConfigError, DataError
from medseg.manifest.fields import dicom_modality
from medseg.portable.io.header import Header
from medseg.workflows.predict.plausibility.field_of_view import shows_less
from medseg.workflows.predict.plausibility.finding import Finding
from medseg.workflows.predict.plausibility.intensities import intensity_findings
from medseg.workflows.predict.plausibility.volumes import volume_findings

SHOWN = 4
"""Findings that a line tells; the report has all."""

REFUSED = "not written (--implausible refuse): "
STANDS = "the result that is there is an earlier command's, and would be refused now (--implausible refuse): "
NO_FACTS = (
    "keeps no facts of its training, so that results are not compared with it "
    "(medseg train --resume of its run folder adds them)"
)


class ImplausibleError(DataError):
    """A case whose result is not written, since it is unlike those of training.

    Args:
        findings: what is odd about it.
        image: its first file.
        stands: whether an earlier command wrote a result all the same.
    """

    def __init__(self, findings: Sequence[Finding], image: Path, *, stands: bool = False) -> None:
        super().__init__((STANDS if stands else REFUSED) + joined(findings), path=image)
        self.findings = tuple(findings)


class Plausibility:
    """What models know of the images and labels that they were trained on.

    Args:
        bundles: opened. Of several that predict together, what is odd to all that know it is odd.
        refuse: whether results of which anything is odd are not to be written.

    Raises:
        BundleError: what a bundle keeps of its training is damaged.
        ConfigError: results are to be refused, and no model knows anything to refuse them by.
    """

    def __init__(self, bundles: Sequence[OpenBundle], *, refuse: bool = False) -> None:
        self.bundles, self.refuse = tuple(bundles), refuse
        self.facts = [read_facts(bundle.path) for bundle in bundles]
        if refuse and not any(self.facts):
            raise ConfigError(
                "--implausible refuse: the model keeps no facts of its training to judge results by",
                path=bundles[0].path,
                hint="medseg train --resume of its run folder adds them; or leave the option out",
            )

    @property
    def notes(self) -> list[str]:
        """What to say once, before any case: which models know nothing."""
        pairs = zip(self.bundles, self.facts, strict=True)
        return [f"{bundle.path}: {NO_FACTS}" for bundle, facts in pairs if facts is None]

    def case(self, headers: Sequence[Header], image: Path, modalities: Sequence[str] = ()) -> CaseCheck:
        """The check of one case.

        Args:
            headers: of its files.
            image: the file that messages name.
            modalities: of its channels, as a DICOM header or a manifest says; empty: nobody says.
        """
        return CaseCheck(self, headers[0], image, modalities)


class CaseCheck:
    """What is odd about one case, found bit by bit while it is predicted.

    Attributes:
        findings: until now.
    """

    def __init__(self, known: Plausibility, header: Header, image: Path, modalities: Sequence[str]) -> None:
        self._known, self._header, self._image = known, header, image
        self.findings: list[Finding] = []
        of_bundles = {shows_less(header, bundle.data) for bundle in known.bundles}
        self._is_cut = None not in of_bundles
        for text in sorted(filter(None, of_bundles)):
            self.findings.append(Finding("field of view", "", text))
        self._compare_modalities(modalities)
        self._refuse()

    def see_image(self, image: Any) -> None:
        """Look at the intensities of an image.

        Args:
            image: `(C, X, Y, Z)` as stored, axes in any order.
        """
        those_that_know = self._that_know()
        if not those_that_know:
            return
        found = [percentiles_of(channel) for channel in np.asarray(image)]
        of_bundles = []
        for bundle, facts in those_that_know:
            if len(facts.channels) == len(found):
                of_bundles.append(intensity_findings(found, bundle.data, facts.channels, is_cut=self._is_cut))
        self.findings += _shared(of_bundles)
        self._refuse()

    def see_labels(self, labels: np.ndarray, counts: np.ndarray) -> None:
        """Look at the structures of a result.

        Args:
            labels: `(X, Y, Z)` label values on the image's grid.
            counts: `(256,)` voxels of each label value.
        """
        of_bundles = []
        for bundle, facts in self._that_know():
            of_bundles.append(volume_findings(labels, counts, self._header, bundle.data, facts))
        self.findings += _shared(of_bundles)
        self._refuse()

    def _that_know(self) -> list[tuple[OpenBundle, TrainingFacts]]:
        pairs = zip(self._known.bundles, self._known.facts, strict=True)
        return [(bundle, facts) for bundle, facts in pairs if facts is not None]

    def _compare_modalities(self, modalities: Sequence[str]) -> None:
        trained = self._known.bundles[0].data.modality
        if len(modalities) != len(trained):
            return
        for channel, (found, wanted) in enumerate(zip(modalities, trained, strict=True)):
            kinds = dicom_modality(found), dicom_modality(wanted)
            if "OT" not in kinds and kinds[0] != kinds[1]:
                of = "" if len(trained) == 1 else f"channel {channel}"
                text = f"is {kinds[0]}, the model was trained on {kinds[1]}"
                self.findings.append(Finding("modality", of, f"{of} {text}".strip()))

    def _refuse(self) -> None:
        """Raise as soon as anything is odd, where such results are refused."""
        if self._known.refuse and self.findings:
            raise ImplausibleError(self.findings, self._image)


def joined(findings: Sequence[Finding]) -> str:
    """The first few in one line, and how many more there are; what is missing together."""
    missing = [finding for finding in findings if finding.kind == "absent"]
    texts = [finding.text for finding in findings if finding.kind != "absent"]
    if len(missing) == 1:
        texts.append(missing[0].text)
    elif missing:
        names = ", ".join(finding.of for finding in missing[:SHOWN])
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        texts.append(f"missing, and in all training labels: {names}{more}")
    more = f"; and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return "; ".join(texts[:SHOWN]) + more


def _shared(of_bundles: Sequence[Sequence[Finding]]) -> list[Finding]:
    """What all models find odd, in the words of the first."""
    if not of_bundles:
        return []
    first, *others = of_bundles
    kinds = [{(finding.kind, finding.of) for finding in found} for found in others]
    return [finding for finding in first if all((finding.kind, finding.of) in known for known in kinds)]
