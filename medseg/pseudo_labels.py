"""What lies between two runs: what networks predict of a case, and the rules by which that becomes its label."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Predictions:
    """What the networks of all views say of one case, on the grid of its file.

    Of each network only the label and its probability are kept: the volumes of all classes of three planes are some
    twenty times larger, and a rule that takes the most confident view needs no more, since the largest probability of
    all views and classes is always some view's own largest.

    Args:
        labels: for each view `(X, Y, Z)` uint8 class indices; none where the method has no segmenter.
        confidences: for each view `(X, Y, Z)` float16, the probability of each of these labels.
        probabilities: for each view `(C, X, Y, Z)` uint8 in steps of 1/255, memory-mapped, if the rule needs them.
        tags: class index -> whether it is present, as far as the manifest says.
        maps: for each view `(K, X, Y, Z)` float16 of `Method.maps`, memory-mapped, if the rule needs them.
        inputs: what the rule names in `inputs`, as the files have it: a map `(X, Y, Z)`, the image `(C, X, Y, Z)`.
        log_odds: for each view `(X, Y, Z)` float16, log(p / (1 - p)) of each label, if the rule needs them: unlike
            probabilities they tell apart voxels of which the network is nearly certain.
        name: of the case.
    """

    labels: Sequence[Tensor]
    confidences: Sequence[Tensor]
    probabilities: Sequence[Tensor] | None = None
    tags: Mapping[int, bool] | None = None
    maps: Sequence[Tensor] | None = None
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    log_odds: Sequence[Tensor] | None = None
    name: str = ""


@dataclass(frozen=True, eq=False)
class LabelAndMaps:
    """What a rule makes of a case that has more for the next stage than a label.

    Args:
        label: `(X, Y, Z)` uint8 class indices, 255 = ignore.
        maps: for each name in `PseudoLabels.makes` `(X, Y, Z)` float32, for streams with a key of that name.
    """

    label: Tensor
    maps: Mapping[str, Tensor]


class PseudoLabels(ABC):
    """Base of the rules by which predictions become labels.

    A rule works in two passes, so that it may look at the whole data set first: `summarize` sees each case, `decide`
    all summaries at once, `label` each case again, with what was decided. Predictions are made once: between the passes
    they lie on disk. A rule that does not look at the whole set overrides `label` alone.

    Args:
        classes: number of classes with background.

    Attributes:
        class_counts: voxels of each class in the labels that people made, before the first pass; of a rule that says
            so by `counts_labels`.
        counts_images: whether `class_counts` are to be images of each class instead, each with one class.
        counts_mm3: whether they are to be volumes in mm^3 instead.
        asks_validation: whether it needs labelled validation cases, see `leave_out`.
        has_background: whether class 0 is the background; else it is a class like the others.
    """

    needs: Literal["labels", "probabilities", "maps", "log_odds"] = "labels"
    """Of each case the labels and confidences of the views; also probabilities of all classes; also `Method.maps`; also
    the log-odds of the labels, of a single view."""

    counts_labels: ClassVar[bool] = False
    """Whether the rule wants `class_counts`."""

    is_judged: ClassVar[bool] = False
    """Whether the report says how right its labels would be of labelled validation cases; it makes labels alone."""

    one_view: ClassVar[bool] = False
    """Whether the rule looks at what a single view says, so that a stage of several is refused."""

    needs_cases: ClassVar[bool] = False
    """Whether rounds without a case to label are refused; else the networks of the first round are the product."""

    tried: ClassVar[Mapping[str, tuple[float, ...]]] = {}
    """Options that labelled validation cases choose where a pipeline does not give them -> values, the default first.
    The label that such a rule makes of one case depends on nothing that `decide` decides."""

    inputs: ClassVar[tuple[str, ...]] = ()
    """Of each case also: the maps of these names that the manifest gives, and "image"."""

    makes: ClassVar[tuple[str, ...]] = ()
    """Names of further maps that the rule makes for the next stage, see `LabelAndMaps`."""

    stands_for: ClassVar[Mapping[str, str]] = {}
    """Name in `makes` -> name in `inputs` of the map that is taken in its place for cases whose label is known: these
    are not labelled, and may be learnt from in the next stage."""

    left_out: str = "of which the rule is sure of nothing"
    """Of which cases with tags `label` gives None, as it is told after labelling."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.class_counts: Sequence[float] = ()
        self.counts_images = False
        self.counts_mm3 = False
        self.asks_validation = False
        self.has_background = True

    def cautions(self, views: int) -> Sequence[str]:
        """Warnings of settings that change nothing with so many views, each a line."""
        return ()

    @property
    def looks_at_all(self) -> bool:
        """Whether the rule has a first pass."""
        return type(self).summarize is not PseudoLabels.summarize

    def summarize(self, case: Predictions) -> dict[str, Any]:
        """Plain numbers of one case, which JSON can hold."""
        return {}

    def decide(self, summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Once for each round, from the summaries of all cases by name: plain numbers, which JSON can hold."""
        return {}

    def for_others(self, decided: Mapping[str, Any]) -> dict[str, Any]:
        """What is decided, as `label` needs it for cases that had no summary; of a rule that is judged."""
        return dict(decided)

    def leave_out(
        self, decided: Mapping[str, Any], precision: Sequence[float | None]
    ) -> tuple[dict[str, Any], list[int]]:
        """What is decided in the end, once it is known how right the labels would be; of a rule that is judged.

        Args:
            decided: what `decide` gave.
            precision: of each class the part of the kept voxels or images of labelled validation cases that is right;
                None: nothing of it is kept there.

        Returns:
            As `decided`, and the classes of which nothing is kept any more.
        """
        return dict(decided), []

    @abstractmethod
    def label(self, case: Predictions, decided: Mapping[str, Any], round_number: int) -> Tensor | LabelAndMaps | None:
        """The label of one case.

        Args:
            case: what is predicted of it.
            decided: what `decide` gave.
            round_number: from 1, where the predictions are those of the teachers; of repeated stages the pass.

        Returns:
            `(X, Y, Z)` uint8 class indices, 255 = ignore; None: the case stays without a label in this round.
        """
