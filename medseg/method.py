"""The contract of a paper: what is inside a run (`Method`) and what lies between two runs (`PseudoLabels`).

A method is an `nn.Module` whose `forward` is its paper's loss. Because `forward` is the loss, `.to()`, `state_dict()`
and `DistributedDataParallel(method)` cover every network, head and bank that the method owns. A hyper-parameter is a
keyword of the constructor whose default is the paper's: the signature is the configuration.

A pseudo-label rule turns the predictions of one run into labels for the next. Rounds, warm starts and the fusion of
several views belong to the stage (`medseg.config.pipeline.Stage`), since they are the same for every paper.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from medseg.config.sides import have_sides as have_sides
from medseg.portable.networks.encoder_decoder import EncoderDecoder, HeadedNetwork
from medseg.pseudo_labels import LabelAndMaps as LabelAndMaps
from medseg.pseudo_labels import Predictions as Predictions
from medseg.pseudo_labels import PseudoLabels as PseudoLabels
from medseg.stream import ALL as ALL
from medseg.stream import LABELED as LABELED
from medseg.stream import STREAM_KEYS as STREAM_KEYS
from medseg.stream import UNLABELED as UNLABELED
from medseg.stream import WEAK as WEAK
from medseg.stream import Stream as Stream
from medseg.stream import number_of_case as number_of_case
from medseg.structure_names import same_structure as same_structure

Batch = Mapping[str, Mapping[str, Tensor]]
"""stream -> key -> `(B, C, *spatial)`, e.g. `batch["unlabeled"]["image"]`; labels are class indices, 255 = ignore."""

Samples = Callable[[str, Sequence[int]], Mapping[str, Tensor]]
"""Stream and keys "number" -> what batches had of these samples, on the CPU."""

PatchTargets = Callable[[np.ndarray], dict[str, np.ndarray]]
"""Label patch `(*spatial)` of class indices -> further arrays `(C', *spatial)`; runs in the loader's workers."""

IGNORE = 255
"""In labels: not to be learnt from. In tags: nobody has looked."""


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
        modality: of the channels of its images; empty: not known.
        independent: see `Method.independent`.
    """

    def __init__(
        self, module: nn.Module, labels: Sequence[str] = (), *, modality: Sequence[str] = (), independent: bool = False
    ) -> None:
        self.module = module.eval().requires_grad_(False)
        self.labels, self.modality = tuple(labels), tuple(modality)
        self.independent = independent
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
        labels: names of the classes, background first; of regions without the background.
        modality: of the channels of the image.
        classes: number of classes with background.
        has_background: whether the first class is the background; else it is a class like the others.
        region_members: of each region its class indices in labels; none where classes do not overlap.
        spatial_dims: 2 or 3.
        in_channels: channels that the network takes: those of the image, of each of the slices.
        image_channels: channels of the image itself.
        patch: voxels of a training patch along each axis of the network.
        spacing_mm: of voxels, along the same axes.
        native_mm: of the files, along the same axes, the median; resampling does not change it.
        previous: the network of the stage before, where the stage starts from one.
    """

    labels: tuple[str, ...]
    modality: tuple[str, ...]
    classes: int
    has_background: bool
    region_members: tuple[tuple[int, ...], ...]
    spatial_dims: int
    in_channels: int
    image_channels: int
    patch: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    native_mm: tuple[float, ...]
    previous: Frozen | None

    def segmenter(self, out_channels: int | None = None) -> nn.Module:
        """Image `(B, Cin, *spatial)` to `(B, out_channels, *spatial)`; by default one per class or region."""

    def encoder_decoder(self) -> EncoderDecoder:
        """The same network in two halves, with features; with pre-trained weights if the pipeline names some."""

    def head(self, in_channels: int, out_channels: int, blocks: int = 0) -> nn.Module:
        """A 1x1x1 convolution on features, after so many blocks of its own: 3x3x3 convolution, batch norm, PReLU."""

    def headed(self, network: EncoderDecoder, head: nn.Module) -> HeadedNetwork:
        """A segmenter of a network in halves and a head on its decoder."""

    def assembled(self, kind: type[nn.Module], **arguments: Any) -> nn.Module:
        """A module of a class of `medseg.portable.networks`, so that it can be exported.

        Args:
            kind: one of the classes that `medseg.config.instantiate.OURS` lists.
            arguments: of its constructor: numbers, lists, parts; `classes` has the background, `structures` has not.
        """


class Method(nn.Module, ABC):
    """Base of all papers.

    Args:
        networks: makes the networks that the method needs.

    Attributes:
        round_number: of rounds with pseudo-labels, set by the stage before the training; 0: that of the teachers.
        round_count: rounds after that one.
        independent: whether the segmenter's logits are of each class by itself, through a sigmoid; else a softmax makes
            them probabilities. The bundle says so to the method that starts from it.
        head_choices: outputs of the segmenter, of which labelled validation cases choose the exported one: name ->
            arguments of its constructor, attributes too, by which it gives that one; none: nothing is to be chosen.
    """

    streams: tuple[Stream, ...] = (LABELED,)
    """What a batch must carry; of a method whose options decide it (`streams_of`), with the paper's options."""

    asks_previous: bool = False
    """Whether it needs the network of the stage before, whose planes, patch and intensities are taken for the run."""

    takes_regions: bool = False
    """Whether it learns classes that overlap, of which `Networks.region_members` tells, or makes no segmenter."""

    independent: bool = False

    def __init__(self, networks: Networks) -> None:
        super().__init__()
        self.classes = networks.classes
        self.round_number = self.round_count = 0
        self.head_choices: Mapping[str, Mapping[str, bool]] = {}

    @classmethod
    def streams_of(cls, options: Mapping[str, Any]) -> tuple[Stream, ...]:
        """What a batch must carry with some options, asked before there is a method.

        A method that overrides this also sets `self.streams`, and raises ValueError for options that it refuses.

        Args:
            options: keywords of the constructor that a pipeline gives, of the right types.
        """
        return cls.streams

    @classmethod
    def needs_upright(cls, options: Mapping[str, Any]) -> bool:
        """Whether it asks which way up an image is, so that augmentation must not turn images far.

        Args:
            options: as in `streams_of`.
        """
        return False

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
        bundle, not in it. Parts that are `medseg.stream.SeesCases` are told of which case an image is. None: the method
        has no maps.
        """
        return None

    def after_step(self, clock: Clock) -> None:
        """Update what the optimiser does not, such as an averaged teacher."""

    def recall(self, samples: Samples) -> None:
        """Make anew what checkpoints leave out, such as patches of earlier batches; called once one is read.

        Args:
            samples: of the run; the same numbers give the same voxels. No random number may be drawn.
        """

    def watched(self) -> dict[str, Tensor]:
        """Numbers to follow beside the loss terms, such as a bank of confidences; the log and TensorBoard have them.

        Name -> `()` or `(classes,)`, or any other `(n,)`; called in the process that writes the log alone.
        """
        return {}

    def pictures(self) -> dict[str, Tensor]:
        """Pictures of the last batch, such as mixed images, for TensorBoard; see `medseg.ops.contact_sheet`.

        Name -> `(1 or 3, height, width)` in [0, 1]; called as `watched`, but seldom. No random number may be drawn.
        """
        return {}

    def parameter_groups(self, lr: float) -> list[dict]:
        """Optimiser groups; by default one."""
        return [{"params": [p for p in self.parameters() if p.requires_grad], "lr": lr}]

    def check_tags(self, presence: Sequence[Mapping[int, bool]]) -> None:
        """Refuse tags from which nothing can be learnt; called when the run is planned.

        Args:
            presence: of each case of a stream with tags, class index -> whether it is there, as far as anybody knows.

        Raises:
            ValueError: what is wrong with them.
        """

    def cautions(self, cases: Mapping[str, int]) -> Sequence[str]:
        """Warnings of settings that hardly suit the data, each a line; `cases` has the number of each stream's."""
        return ()

    def targets(self) -> PatchTargets | None:
        """Further targets to make of each labelled patch in the loader's workers."""
        return None


class PretrainingMethod(Method):
    """Base of papers that only prepare a network for the next stage, or for `medseg pretrain`, and have no segmenter.

    Attributes:
        network: which is prepared; set by the constructor.
    """

    takes_regions = True
    network: EncoderDecoder

    def segmenter(self) -> None:
        """There is none."""

    def pretrained(self) -> EncoderDecoder:
        """The network, without heads that the preparation needs."""
        return self.network
