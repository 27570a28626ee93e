"""The contract of a paper: what is inside a run (`Method`) and what lies between two runs (`PseudoLabels`).

A method is an `nn.Module` whose `forward` is its paper's loss. Because `forward` is the loss, `.to()`, `state_dict()`
and `DistributedDataParallel(method)` cover every network, head and bank that the method owns. A hyper-parameter is a
keyword of the constructor whose default is the paper's: the signature is the configuration.

A pseudo-label rule turns the predictions of one run into labels for the next. Rounds, warm starts and the fusion of
several views belong to the stage (`medseg.config.Stage`), since they are the same for every paper.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from medseg.portable.networks.encoder_decoder import EncoderDecoder, HeadedNetwork

Batch = Mapping[str, Mapping[str, Tensor]]
"""stream -> key -> `(B, C, *spatial)`, e.g. `batch["unlabeled"]["image"]`; labels are class indices, 255 = ignore."""

PatchTargets = Callable[[np.ndarray], dict[str, np.ndarray]]
"""Label patch `(*spatial)` of class indices -> further arrays `(C', *spatial)`; runs in the loader's workers."""

IGNORE = 255
"""In labels: not to be learnt from. In tags: nobody has looked."""


@dataclass(frozen=True)
class Stream:
    """What a batch carries under a name; checked when the run is planned.

    Args:
        name: "labeled", "unlabeled" or "weak": the cases of the data set with a label, with nothing, with tags only.
        keys: beside "image" `(B, C, *spatial)` float32, each under its own name:
            "label" `(B, 1, *spatial)` uint8 class indices, 255 = ignore;
            "tags" `(B, structures)` uint8, for each class but the background 1 = present, 0 = absent, 255 = not known;
            "index" `(B,)` int64, the number of the case among those of the stream;
            any other: the map of that name that the manifest gives for each case, `(B, 1, *spatial)` float32.
        group: "tags": a batch is made of groups, of images of cases that share a tag. They follow one another: with K
            images in a group, the first K images of a batch are its first group.
        group_size: K, images in a group; the batch size of the stream is a multiple of it.
        optional: the data set may have no such case; the batch then lacks the stream.
    """

    name: str
    keys: tuple[str, ...] = ()
    group: Literal["tags"] | None = None
    group_size: int = 2
    optional: bool = False

    @property
    def batch_multiple(self) -> int:
        """What the batch size of the stream is a multiple of."""
        return self.group_size if self.group else 1


STREAM_KEYS = ("label", "tags", "index")
"""Keys of a stream that are no names of maps."""

LABELED = Stream("labeled", ("label",))
UNLABELED = Stream("unlabeled")
WEAK = Stream("weak", ("tags",))


@dataclass(frozen=True)
class Clock:
    """Where in the run a step is.

    Args:
        iteration: 0-based step.
        total: steps of the whole run.
    """

    iteration: int
    total: int

    @property
    def fraction(self) -> float:
        """Part of the run that is over, in [0, 1)."""
        return self.iteration / self.total


class Frozen:
    """The network of the stage before, to ask but not to train.

    It is no module, so that no method registers it: it stays in evaluation mode, has no gradient, and is neither in the
    optimiser nor in checkpoints nor among what processes must agree on.

    Args:
        module: images `(B, Cin, *spatial)` to `(B, classes, *spatial)` logits.
        labels: names of its classes, background first.
    """

    def __init__(self, module: nn.Module, labels: Sequence[str] = ()) -> None:
        self.module = module.eval().requires_grad_(False)
        self.labels = tuple(labels)
        self._device: torch.device | None = None

    def on(self, device: torch.device) -> nn.Module:
        """The network, where the images are."""
        if self._device != device:
            self.module.to(device)
            self._device = device
        return self.module

    def __call__(self, image: Tensor) -> Tensor:
        """Logits `(B, classes, *spatial)`, without gradient."""
        with torch.no_grad():
            return self.on(image.device)(image)


class Networks(Protocol):
    """Makes the networks of a method and remembers how, so that they can be exported.

    Attributes:
        classes: number of classes with background.
        has_background: whether the first class is the background; else it is a class like the others.
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        previous: the network of the stage before, where the stage starts from one.
    """

    classes: int
    has_background: bool
    spatial_dims: int
    in_channels: int
    previous: Frozen | None

    def segmenter(self, out_channels: int | None = None) -> nn.Module:
        """Image `(B, Cin, *spatial)` to `(B, out_channels, *spatial)`; by default one channel for each class."""

    def encoder_decoder(self) -> EncoderDecoder:
        """The same network in two halves, with features; with pre-trained weights if the pipeline names some."""

    def head(self, in_channels: int, out_channels: int) -> nn.Module:
        """A 1x1x1 convolution on features."""

    def headed(self, network: EncoderDecoder, head: nn.Module) -> HeadedNetwork:
        """A segmenter of a network in halves and a head on its decoder."""


class Method(nn.Module, ABC):
    """Base of all papers.

    Args:
        networks: makes the networks that the method needs.
    """

    streams: ClassVar[tuple[Stream, ...]] = (LABELED,)
    """What a batch must carry."""

    def __init__(self, networks: Networks) -> None:
        super().__init__()
        self.classes = networks.classes

    @abstractmethod
    def forward(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """The paper's loss as named, already weighted scalar terms; their sum is minimised.

        A term is switched off by weight 0, not by leaving it out: processes that train together need every parameter
        in the graph.
        """

    @abstractmethod
    def segmenter(self) -> nn.Module | None:
        """The network to validate, export and serve: images to `(B, classes, *spatial)` logits.

        It is made by `Networks`, or by `medseg.portable.networks.adapters` of what `Networks` made. None: the method
        only prepares weights for the next stage (see `pretrained`).
        """

    def pretrained(self) -> nn.Module:
        """What the next stage starts from; by default the segmenter."""
        segmenter = self.segmenter()
        if segmenter is None:
            raise NotImplementedError(f"{type(self).__name__} has no segmenter and does not say what it pre-trains")
        return segmenter

    def maps(self) -> nn.Module | None:
        """What a rule with `needs = "maps"` gets: images to maps `(B, K, *spatial)`, such as class-activation maps.

        Any module of parts of the method, made anew by each call. After the training its weights are kept beside the
        bundle, not in it. None: the method has no maps.
        """
        return None

    def after_step(self, clock: Clock) -> None:
        """Update what the optimiser does not, such as an averaged teacher."""

    def parameter_groups(self, lr: float) -> list[dict]:
        """Optimiser groups; by default one."""
        return [{"params": [p for p in self.parameters() if p.requires_grad], "lr": lr}]

    def targets(self) -> PatchTargets | None:
        """Further targets to make of each labelled patch in the loader's workers."""
        return None


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
    """

    labels: Sequence[Tensor]
    confidences: Sequence[Tensor]
    probabilities: Sequence[Tensor] | None = None
    tags: Mapping[int, bool] | None = None
    maps: Sequence[Tensor] | None = None
    inputs: Mapping[str, Tensor] = field(default_factory=dict)


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
    """

    needs: Literal["labels", "probabilities", "maps"] = "labels"
    """Of each case the labels and confidences of the views; also probabilities of all classes; also `Method.maps`."""

    inputs: ClassVar[tuple[str, ...]] = ()
    """Of each case also: the maps of these names that the manifest gives, and "image"."""

    makes: ClassVar[tuple[str, ...]] = ()
    """Names of further maps that the rule makes for the next stage, see `LabelAndMaps`."""

    def __init__(self, classes: int) -> None:
        self.classes = classes

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
