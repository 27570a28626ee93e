"""Batches of several streams: item `i` of the data set is the whole batch of iteration `i`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from medseg.config.pipeline import DataSpec
from medseg.cores import usable_cores
from medseg.data import augment, sampling
from medseg.data.body_place import place_in_body
from medseg.data.cached_volume import CachedVolume
from medseg.data.label_notes import label_notes, shows_unknown, stacked_maps, stacked_targets, stand_in_label
from medseg.data.loader_workers import TIMEOUT_SECONDS, affordable_workers, answer_no_signals, one_thread
from medseg.data.tag_groups import SameTagsOrder, order_of, slice_beside
from medseg.errors import ConfigError, DataError
from medseg.method import IGNORE, LABELED, STREAM_KEYS, UNLABELED, WEAK, Batch, PatchTargets, Stream, number_of_case

_PREFETCH = 2


class PatchStreams(Dataset):
    """Training batches as a function of their iteration.

    With several processes each makes its own part of the batch: with a batch size of `B` per process, patch `j` of a
    stream is sample number `(iteration * world + rank) * B + j`. An absent stream is left out of the batch.

    Args:
        volumes: stream -> its cases.
        spec: patch, view, augmentation, share of patches centred on a class.
        batch: stream -> batch size per process.
        seed: of the run.
        total: iterations of the run.
        rank: of this process, and the number of processes.
        targets: further arrays to make of each label patch.
        streams: what the batch has under each name.

    Raises:
        DataError: a stream without cases, or fewer labelled volumes than the batch size.
        ConfigError: a patch that does not fit the view.
    """

    def __init__(
        self,
        volumes: Mapping[str, Sequence[CachedVolume]],
        spec: DataSpec,
        batch: Mapping[str, int],
        *,
        seed: int,
        total: int,
        rank: tuple[int, int] = (0, 1),
        targets: PatchTargets | None = None,
        streams: Sequence[Stream] = (LABELED, UNLABELED, WEAK),
    ) -> None:
        self.streams = {stream.name: stream for stream in streams}
        self.volumes = {stream: list(volumes[stream]) for stream in batch if volumes.get(stream)}
        self.batch = {stream: batch[stream] for stream in self.volumes}
        self.spec, self.targets = spec, targets
        self.seed, self.total = seed, total
        self.rank, self.world = rank
        self.thin = spec.slice_axis
        self._shows_unknown, self._pads_zeros = shows_unknown(spec), spec.padding == "zero"
        self.seen = [size + 2 * context for size, context in zip(spec.patch, spec.context, strict=True)]
        self._orders = {name: order_of(cases, self.streams[name], spec) for name, cases in self.volumes.items()}
        self._check(batch)

    def _check(self, batch: Mapping[str, int]) -> None:
        if self.thin is not None and self.spec.patch[self.thin] != 1:
            raise ConfigError(f"patch is {list(self.spec.patch)}; view {self.spec.view} needs 1 along axis {self.thin}")
        for name in batch:
            stream, cases = self.streams.get(name), self.volumes.get(name, [])
            if stream is not None and "label" in stream.keys:
                self._check_labels(cases, batch[name])
            elif stream is None or not (cases or stream.optional or name == UNLABELED.name):
                raise DataError(f"the method needs the stream {name!r}, which has no case")
        if not self.volumes:
            raise DataError("there is no case to learn from", hint="training needs at least one")

    def _check_labels(self, cases: Sequence[CachedVolume], batch_size: int) -> None:
        if not cases:
            raise DataError("there is no labelled case", hint="training needs at least one")
        if len(cases) < batch_size and self.thin is None:  # patches of planes are slices: one volume has many
            raise DataError(
                f"the batch asks for {batch_size} labelled volumes, there are {len(cases)}",
                hint=f"--set stages.0.schedule.batch.labeled={len(cases)}",
            )
        for volume in cases:
            if volume.label_path is None:
                raise DataError("is in the labelled stream and has no label", path=volume.source)

    def __len__(self) -> int:
        """Iterations of the run."""
        return self.total

    def __getitem__(self, iteration: int) -> Batch:
        """The batch of an iteration.

        Returns:
            For each stream `image` `(B, C, *spatial)` float32 and what its `Stream.keys` name; with `label` also the
            targets `(B, C', *spatial)` and what `label_notes` says; without one, or with maps, where patches may show
            what lies outside of images and is not the background, `inside` `(B, 1, *spatial)` bool.
            Planar views have two spatial axes; the adjacent slices of an image channel follow one another as
            channels.
        """
        if not 0 <= iteration < self.total:
            raise IndexError(f"iteration {iteration} of {self.total}")
        with one_thread():
            return {stream: self._patches(stream, self._numbers(stream, iteration)) for stream in self.batch}

    def samples(self, stream: str, numbers: Sequence[int]) -> dict[str, Tensor]:
        """What batches have of some samples, whatever process and iteration they were of, by their key "number"."""
        with one_thread():
            return self._patches(stream, numbers)

    def cases_of(self, iteration: int) -> dict[str, list[str]]:
        """Names of the cases of an iteration, patch by patch."""
        names = {}
        for stream in self.batch:
            numbers = self._numbers(stream, iteration)
            names[stream] = [self._volume(stream, number).name for number in numbers]
        return names

    def _numbers(self, stream: str, iteration: int) -> range:
        """Of the samples of a batch."""
        batch_size = self.batch[stream]
        first = (iteration * self.world + self.rank) * batch_size
        return range(first, first + batch_size)

    def _case(self, stream: str, number: int) -> int:
        return self._orders[stream].case(self.seed, stream, number)

    def _volume(self, stream: str, number: int) -> CachedVolume:
        return self.volumes[stream][self._case(stream, number)]

    def _map_names(self, stream: str) -> list[str]:
        return [key for key in self.streams[stream].keys if key not in STREAM_KEYS]

    def _patches(self, stream: str, numbers: Sequence[int]) -> dict[str, Tensor]:
        """What a batch has of one stream."""
        size, keys, names = len(numbers), self.streams[stream].keys, self._map_names(stream)
        images = torch.empty((size, len(self.spec.modality), *self.seen))
        labels: Tensor | None = None
        outside: Tensor | None = None
        if "label" in keys:
            labels = torch.empty((size, 1, *self.seen), dtype=torch.uint8)
        elif self._shows_unknown:
            outside = torch.empty((size, 1, *self.seen), dtype=torch.uint8)
        with_inside = "label" in keys and bool(names) and self._shows_unknown  # of whose labels 255 says more
        maps = torch.empty((size, len(names) + with_inside, *self.seen))
        for place, number in enumerate(numbers):
            of_patch = [None if each is None else each[place] for each in (labels, outside)]
            self._write_sample(stream, number, augment.Patch(images[place], of_patch[0], maps[place], of_patch[1]))
        if self.thin is not None:
            images = images.movedim(self.thin + 2, 2).flatten(1, 2).contiguous()
            labels = None if labels is None else self._middle_slices(labels)
            outside = None if outside is None else self._middle_slices(outside)
            maps = self._middle_slices(maps)
        found = {"image": images}
        if labels is not None:
            drawn = [self._volume(stream, number) for number in numbers]
            notes = label_notes(self.volumes[stream], drawn, self.spec.classes)
            found |= {"label": labels, **notes, **stacked_targets(labels, self.targets)}
        if outside is not None:
            found["inside"] = outside != IGNORE
        elif with_inside:
            found["inside"] = maps[:, -1:] > 0.5
        found |= {name: maps[:, index : index + 1] for index, name in enumerate(names)}
        return found | self._notes(stream, numbers)

    def _notes(self, stream: str, numbers: Sequence[int]) -> dict[str, Tensor]:
        """What a stream is told of its patches beside voxels."""
        keys, found = self.streams[stream].keys, {}
        volumes = [self._volume(stream, number) for number in numbers]
        if "tags" in keys:
            found["tags"] = torch.stack([torch.from_numpy(volume.tags(self.spec.classes)) for volume in volumes])
        if "index" in keys:
            found["index"] = torch.tensor([self._case(stream, number) for number in numbers])
        if "case" in keys:
            found["case"] = torch.tensor([number_of_case(volume.name) for volume in volumes])
        if "number" in keys:
            found["number"] = torch.tensor(list(numbers))
        if "place" in keys:
            found["place"] = torch.stack([self._place_in_body(stream, number) for number in numbers])
        if "evenly" in keys:
            found["evenly"] = torch.tensor([self._is_drawn_evenly(stream, number) for number in numbers])
        return found

    def _middle_slices(self, patches: Tensor) -> Tensor:
        assert self.thin is not None
        return patches.select(self.thin + 2, self.spec.slices // 2).contiguous()

    def _write_sample(self, stream: str, number: int, patch: augment.Patch) -> None:
        volume = self._volume(stream, number)
        draw, start = self._place(stream, number, labelled=patch.label is not None)
        names = self._map_names(stream)
        maps = stacked_maps(volume, names, with_inside=len(patch.maps) > len(names))
        label = None
        if patch.label is not None:
            label = torch.from_numpy(volume.label)[None]
        elif patch.outside is not None:
            label = stand_in_label(volume)
        source = augment.Source(
            image=torch.from_numpy(volume.image),
            label=label,
            background=torch.zeros(len(volume.image)) if self._pads_zeros else torch.tensor(volume.background),
            repeat=augment.repeated_axes(self.spec),
            maps=maps,
            outside=0 if self.spec.has_background else IGNORE,
            zscored=tuple(rule.kind == "zscore" for rule in self.spec.intensities),
        )
        start_of_patch = draw.start_of_patch(start, self.spec.patch)
        first = np.subtract(start_of_patch, self.spec.context).tolist()
        augment.apply(draw, source, first, patch.image, patch.outside if patch.label is None else patch.label)
        if maps is not None:
            augment.apply_to_maps(draw, source, first, patch.maps)

    def _place_in_body(self, stream: str, number: int) -> Tensor:
        draw, start = self._place(stream, number, labelled="label" in self.streams[stream].keys)
        first = draw.start_of_patch(start, self.spec.patch)
        axes = [axis for axis in range(3) if axis != self.thin]
        return place_in_body(self._volume(stream, number), draw, first, self.spec.patch, axes)

    def _draw(self, stream: str, number: int) -> augment.Draw:
        seed = sampling.transform_seed(self.seed, stream, number)
        return augment.draw(self.spec.augment, seed, self.spec.patch, self._volume(stream, number).spacing_mm)

    def _place(self, stream: str, number: int, *, labelled: bool) -> tuple[augment.Draw, tuple[int, int, int]]:
        """How a sample is changed, and its first voxel before it is."""
        volume, draw = self._volume(stream, number), self._draw(stream, number)
        start = sampling.start_of(
            volume,
            draw.covered_shape(self.spec.patch),
            sampling.generator(self.seed, stream, number),
            foreground=self.spec.foreground,
            labelled=labelled,
            across=self.thin,
            in_the_middle=self._pads_zeros,
        )
        order = self._orders[stream]
        if not isinstance(order, SameTagsOrder) or self.thin is None:
            return draw, start
        slices = order.slices_beside(self.seed, stream, number)
        if slices is None:
            return draw, start
        _, before = self._place(stream, number - 1, labelled=labelled)
        moved = list(start)
        moved[self.thin] = slice_beside(before[self.thin], slices, volume.shape[self.thin])
        return draw, (moved[0], moved[1], moved[2])

    def _is_drawn_evenly(self, stream: str, number: int) -> bool:
        if not isinstance(self._orders[stream], sampling.CaseOrder):
            return False
        volume, rng = self._volume(stream, number), sampling.generator(self.seed, stream, number)
        patch = self._draw(stream, number).covered_shape(self.spec.patch)
        foreground, in_the_middle = self.spec.foreground, self._pads_zeros
        return not sampling.is_centred(volume, patch, rng, foreground=foreground, in_the_middle=in_the_middle)


def make_loader(dataset: PatchStreams, *, start: int, workers: int, device: torch.device) -> DataLoader:
    """Yield the batches of iterations `start .. total - 1`, in order.

    Args:
        dataset: of the run.
        start: iterations that are done.
        workers: processes that make batches ahead of time; fewer are used where this process may use fewer cores,
            and where the machine's shared memory could not hold what they make. Their number does not change a
            single voxel.
        device: where the batches go; memory is pinned for CUDA.
    """
    workers = min(workers, usable_cores(), _affordable(dataset))
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=range(start, dataset.total),
        num_workers=workers,
        prefetch_factor=_PREFETCH if workers else None,
        pin_memory=device.type == "cuda",
        timeout=TIMEOUT_SECONDS if workers else 0,
        worker_init_fn=answer_no_signals,
        generator=torch.Generator(),  # else starting a loader would draw from the random numbers of the run
    )


def _affordable(dataset: PatchStreams, shared: Path = Path("/dev/shm")) -> int:  # noqa: S108
    """Workers whose batches fit into shared memory, and into the largest file that this process may write."""
    voxels = torch.Size(dataset.spec.patch).numel()
    classes = dataset.spec.classes if dataset.targets else 0
    per_voxel = {}
    for name in dataset.batch:
        keys = dataset.streams[name].keys
        per_voxel[name] = 4 * (dataset.spec.channels + len(keys))
        if "label" in keys:
            per_voxel[name] += 5 * classes
    batch = voxels * sum(batch_size * per_voxel[stream] for stream, batch_size in dataset.batch.items())
    return affordable_workers(batch, shared, _PREFETCH + 1)
