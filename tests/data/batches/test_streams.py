"""Batches: a function of (seed, iteration) alone, with the rows, cases and labels that were asked for."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from limits import full_disk
from torch.utils.data import DataLoader, Dataset

from medseg.config.pipeline import Augment, DataSpec
from medseg.data import cached_volume, sampling
from medseg.data.cached_volume import Content
from medseg.data.loader_workers import lost_workers
from medseg.data.sampling import TagOrder
from medseg.data.streams import PatchStreams, _affordable, make_loader
from medseg.errors import ConfigError, DataError, OutputError
from medseg.method import ALL, LABELED, Stream

CPU = torch.device("cpu")
INTENSITY = ("contrast", "gamma", "noise")
PLAIN = Augment(**{name: {"probability": 0} for name in ("affine", *INTENSITY)})
EVERYTHING = Augment(
    affine={"probability": 0.7},
    flip={"axes": (0, 1)},
    rot90={"axes": (0, 1)},
    **{name: {"probability": 0.5} for name in INTENSITY},
)
SHAPE = (24, 20, 18)


def cached(folder: Path, name: str, image: np.ndarray, label: np.ndarray | None = None):
    target = folder / name
    target.mkdir()
    cached_volume.write(target, Content(image.astype(np.float16), label, np.diag([1.0, 1.0, 2.0, 1.0])), seed=1)
    made = cached_volume.read(target, name, Path(f"{name}.nii.gz"), labelled=label is not None)
    assert made is not None
    return made


def some_case(folder: Path, name: str, seed: int, labelled: bool = True, shape=SHAPE):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, shape, dtype=np.uint8) if labelled else None
    return cached(folder, name, rng.normal(size=(1, *shape)), label)


def spec(patch=(8, 8, 8), **changes) -> DataSpec:
    settings = {"augment": EVERYTHING, **changes}
    labels = {0: "background", 5: "a", 9: "b"}
    return DataSpec(labels=labels, modality=("MR",), spacing_mm=(1, 1, 2), patch=patch, **settings)


@pytest.fixture
def volumes(tmp_path):
    return {
        "labeled": [some_case(tmp_path, f"l{i}", i) for i in range(5)],
        "unlabeled": [some_case(tmp_path, f"u{i}", 100 + i, labelled=False) for i in range(3)],
    }


BATCH = {"labeled": 2, "unlabeled": 3}


def targets(label):
    return {"twice": np.stack([label, label]).astype(np.float32)}


def streams(volumes, batch=BATCH, data=None, **changes):
    return PatchStreams(volumes, data or spec(), batch, **{"seed": 7, "total": 12, **changes})


def flat(batches):
    return [(s, k, v) for batch in batches for s, keys in batch.items() for k, v in keys.items()]


def equal(a, b):
    a, b = flat(a), flat(b)
    assert len(a) == len(b) > 0
    return all(x[:2] == y[:2] and torch.equal(x[2], y[2]) for x, y in zip(a, b, strict=True))


def test_rows_shapes_and_types(volumes):
    batch = streams(volumes, targets=targets)[0]
    assert {s: sorted(k) for s, k in batch.items()} == {
        "labeled": ["image", "label", "twice"],
        "unlabeled": ["image"],
    }
    shapes = [(tuple(v.shape), v.dtype) for _, _, v in flat([batch])]
    assert shapes == [
        ((2, 1, 8, 8, 8), torch.float32), ((2, 1, 8, 8, 8), torch.uint8), ((2, 2, 8, 8, 8), torch.float32),
        ((3, 1, 8, 8, 8), torch.float32),
    ]  # fmt: skip
    assert torch.equal(batch["labeled"]["twice"][:, :1], batch["labeled"]["label"].float())


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.parametrize("workers", [1, 4])
def test_any_number_of_workers_gives_the_same_voxels(volumes, workers, monkeypatch):
    monkeypatch.setattr("medseg.data.streams.usable_cores", lambda: 4)  # here there may be fewer
    data = streams(volumes, targets=targets)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        alone = list(make_loader(data, start=0, workers=0, device=CPU))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert equal(alone, list(make_loader(data, start=0, workers=workers, device=CPU)))


def test_resuming_goes_on_where_it_stopped(volumes):
    data = streams(volumes)
    whole = list(make_loader(data, start=0, workers=0, device=CPU))
    rest = list(make_loader(streams(volumes), start=5, workers=2, device=CPU))
    assert len(whole) == 12
    assert equal(whole[5:], rest)
    assert equal([data[11], data[3]], [whole[11], whole[3]])


def test_seeds_streams_and_iterations_differ(volumes):
    one, other = streams(volumes), streams(volumes, seed=8)
    assert not equal([one[0]], [other[0]])
    assert not equal([one[0]], [one[1]])
    same = {"labeled": volumes["labeled"], "unlabeled": volumes["labeled"]}
    batch = streams(same, {"labeled": 5, "unlabeled": 5})
    assert not torch.equal(batch[0]["labeled"]["image"], batch[0]["unlabeled"]["image"])


def test_every_case_once_per_epoch(volumes):
    data = streams(volumes, total=1000)
    names = [data.cases_of(i) for i in range(50)]
    for stream, cases in (("labeled", 5), ("unlabeled", 3)):
        order = [name for batch in names for name in batch[stream]]
        epochs = [tuple(order[i : i + cases]) for i in range(0, len(order) - cases + 1, cases)]
        assert all(len(set(epoch)) == cases for epoch in epochs)
        assert len(set(epochs)) > 1
    assert all(len(batch["labeled"]) == 2 and len(batch["unlabeled"]) == 3 for batch in names)


def test_cases_of_names_the_patches(volumes):
    data = streams(volumes, data=spec(augment=PLAIN))
    by_name = {v.name: v.image.astype(np.float32) for v in volumes["unlabeled"]}
    rows = data[3]["unlabeled"]["image"].numpy()
    for row, name in zip(rows, data.cases_of(3)["unlabeled"], strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(by_name[name][0], (8, 8, 8))
        hits = (windows[..., 0, 0, 0] == row[0, 0, 0, 0]).nonzero()
        assert any(np.array_equal(windows[at], row[0]) for at in zip(*hits, strict=True))


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_batch_of_one(volumes, world):
    alone = streams(volumes, {"labeled": 1 * world, "unlabeled": 2 * world})
    parts = [streams(volumes, {"labeled": 1, "unlabeled": 2}, rank=(r, world)) for r in range(world)]
    for stream in BATCH:
        whole = alone[4][stream]["image"]
        assert torch.equal(torch.cat([part[4][stream]["image"] for part in parts]), whole)


def test_unlabelled_labels_are_never_opened(tmp_path, volumes):
    hidden = [
        dataclasses.replace(
            some_case(tmp_path, f"h{i}", i),
            label_path=tmp_path / "no such file.npy",
            voxels_path=tmp_path / "nor this.npy",
        )
        for i in range(3)
    ]
    data = streams({**volumes, "unlabeled": hidden}, data=spec(foreground=1.0))
    assert [sorted(data[i]["unlabeled"]) for i in range(12)] == [["image"]] * 12
    with pytest.raises(DataError, match=r"no such file|nor this"):
        streams({"labeled": hidden}, {"labeled": 1})[0]


def test_positions_are_uniform_and_reach_both_ends(tmp_path):
    case = some_case(tmp_path, "case", 0)
    starts = np.array([sampling.start_of(case, (8, 8, 8), sampling.generator(0, "x", n)) for n in range(6000)])
    for axis, size in enumerate(SHAPE):
        counts = np.bincount(starts[:, axis], minlength=size - 7)
        assert len(counts) == size - 7
        expected = 6000 / len(counts)
        assert ((counts - expected) ** 2 / expected).sum() < 2.5 * len(counts)  # chi squared, far beyond 0.1 %


def test_with_zeros_around_a_volume_lies_about_the_middle_of_the_patch(tmp_path):
    """By the authors of DTC: of 10, 20 and 30 voxels in a patch of 16, 3 + 3 and -2 + 3 and no zeros on either side."""
    case = cached(tmp_path, "case", np.full((1, 10, 20, 30), 7.0), np.ones((10, 20, 30), np.uint8))

    def starts_of(patch):
        rngs = [sampling.generator(0, "x", n) for n in range(2000)]
        return np.array([sampling.start_of(case, patch, rng, in_the_middle=True) for rng in rngs])

    starts = starts_of((16, 16, 16))
    assert (starts.min(0).tolist(), starts.max(0).tolist()) == ([-6, -1, 0], [0, 5, 14])
    starts = starts_of((8, 8, 8))
    assert (starts.min(0).tolist(), starts.max(0).tolist()) == ([0, 0, 0], [2, 12, 22])
    data = spec((16, 16, 16), augment=PLAIN, padding="zero", foreground=0)
    batches = [streams({"labeled": [case]}, {"labeled": 1}, data)[number]["labeled"] for number in range(8)]
    for batch in batches:
        assert torch.equal(batch["image"] == 7, batch["label"] == 1)
        assert torch.equal(batch["image"] == 0, batch["label"] == 0)
        assert int(batch["label"].sum()) in {10 * 16 * 16, 10 * 15 * 16}


def test_foreground_patches_hold_a_uniformly_drawn_class(tmp_path):
    label = np.zeros((30, 30, 30), np.uint8)
    label[2, 3, 4] = 1
    label[20:29, 20:29, 20:29] = 2
    case = cached(tmp_path, "case", np.zeros((1, 30, 30, 30)), label)
    held = Counter()
    for n in range(2000):
        start = sampling.start_of(case, (7, 7, 7), sampling.generator(0, "x", n), foreground=0.6, labelled=True)
        part = label[tuple(slice(s, s + 7) for s in start)]
        assert part.shape == (7, 7, 7)
        held[start == (0, 0, 1)] += 1  # as near to the lone voxel as the volume's edge allows
        held["two"] += bool((part == 2).any())
    assert held[True] / 2000 == pytest.approx(0.3, abs=0.04)
    assert held["two"] / 2000 > 0.3


def test_a_batch_says_which_patches_lie_anywhere(tmp_path):
    """Those are the patches that there are without foreground; the others are centred on the only voxel of a class."""
    label = np.zeros(SHAPE, np.uint8)
    label[12, 10, 9] = 1
    case = cached(tmp_path, "case", np.random.default_rng(0).normal(size=(1, *SHAPE)), label)
    stream = Stream("labeled", ("label", "evenly"))
    some, none = (
        streams({"labeled": [case]}, {"labeled": 1}, spec(foreground=share, augment=PLAIN), streams=(stream,), total=40)
        for share in (0.5, 0.0)
    )
    evenly = 0
    for number in range(40):
        batch, anywhere = some[number]["labeled"], none[number]["labeled"]
        assert anywhere["evenly"].tolist() == [True]
        if batch["evenly"].item():
            evenly += 1
            assert torch.equal(batch["image"], anywhere["image"])
        else:
            assert int(batch["label"][0, 0, 4, 4, 4]) == 1
    assert 10 < evenly < 30


def test_a_volume_without_foreground_gives_any_patch(tmp_path):
    case = cached(tmp_path, "case", np.zeros((1, *SHAPE)), np.zeros(SHAPE, np.uint8))
    data = streams({"labeled": [case]}, {"labeled": 1}, spec(foreground=1.0))
    assert int(data[0]["labeled"]["label"].max()) == 0


def test_other_patches_of_a_partly_drawn_volume_hold_drawn_voxels(tmp_path):
    label = np.full((30, 30, 30), 255, np.uint8)
    label[:, :, 12] = 0
    label[4:6, 4:6, 12] = 1
    case = cached(tmp_path, "case", np.zeros((1, 30, 30, 30)), label)
    data = streams({"labeled": [case]}, {"labeled": 1}, spec(foreground=0.3, augment=PLAIN), total=100)
    found = [data[i]["labeled"]["label"] for i in range(100)]
    assert all(bool((f != 255).any()) for f in found)
    assert {int(v) for f in found for v in f.unique()} == {0, 1, 255}


@pytest.mark.parametrize("augment", [PLAIN, EVERYTHING])
def test_volumes_smaller_than_the_patch(tmp_path, augment):
    image = np.random.default_rng(0).normal(size=(1, 5, 30, 6)) + 10
    case = cached(tmp_path, "case", image, np.ones((5, 30, 6), np.uint8))
    data = streams({"labeled": [case]}, {"labeled": 1}, spec(augment=augment), total=30)
    low = float(case.image.min())
    places = set()
    for i in range(30):
        batch = data[i]["labeled"]
        if augment is PLAIN:
            inside = batch["label"][0, 0] == 1
            assert int(inside.sum()) == 5 * 8 * 6
            assert bool((batch["image"][0, 0][~inside] == low).all())
            places.add(tuple(inside.nonzero().amin(0).tolist()))
        assert bool(torch.isfinite(batch["image"]).all())
    assert augment is EVERYTHING or len(places) > 3


@pytest.mark.parametrize(("view", "axis"), [("sagittal", 0), ("coronal", 1), ("axial", 2)])
def test_planar_views_are_squeezed_slices(tmp_path, view, axis):
    case = some_case(tmp_path, "case", 0)
    patch = [8, 6, 7]
    patch[axis] = 1
    data = streams({"labeled": [case]}, {"labeled": 1}, spec(tuple(patch), view=view, augment=PLAIN), targets=targets)
    batch = data[1]["labeled"]
    size = tuple(p for a, p in enumerate(patch) if a != axis)
    assert batch["image"].shape == (1, 1, *size)
    assert batch["label"].shape == (1, 1, *size)
    assert batch["twice"].shape == (1, 2, *size)
    windows = np.lib.stride_tricks.sliding_window_view(case.image[0].astype(np.float32), tuple(patch))
    flat_windows = windows.reshape(-1, *size)
    assert (flat_windows == batch["image"][0, 0].numpy()).all((1, 2)).any()


def mapped_case(folder: Path, name: str, seed: int):
    """A case whose map `there` holds its label."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, SHAPE, dtype=np.uint8)
    target = folder / name
    target.mkdir()
    image = rng.normal(size=(1, *SHAPE)).astype(np.float16)
    content = Content(image, label, np.diag([1.0, 1.0, 2.0, 1.0]), {"there": label.astype(np.float16)})
    cached_volume.write(target, content, seed=1)
    return cached_volume.read(target, name, Path(f"{name}.nii.gz"), labelled=True)


@pytest.mark.parametrize("view", ["volume", "axial"])
def test_maps_move_with_the_image_and_keep_their_values(tmp_path, view):
    turned = Augment(
        flip={"axes": (0, 1)}, rot90={"axes": (0, 1)}, affine={"probability": 0}, noise={"probability": 1.0, "std": 9.0}
    )
    patch = (8, 8, 8) if view == "volume" else (8, 8, 1)
    data = spec(patch, augment=turned, view=view, slices=1 if view == "volume" else 3)
    stream = Stream("labeled", ("label", "there", "index"))
    volumes = {"labeled": [mapped_case(tmp_path, f"m{i}", i) for i in range(4)]}
    batches = [streams(volumes, {"labeled": 3}, data, streams=(stream,))[i]["labeled"] for i in range(12)]
    for batch in batches:
        assert torch.equal(batch["there"], batch["label"].float())
    assert {int(index) for batch in batches for index in batch["index"]} == {0, 1, 2, 3}
    names = streams(volumes, {"labeled": 3}, data, streams=(stream,)).cases_of(5)["labeled"]
    assert names == [f"m{int(index)}" for index in batches[5]["index"]]


@pytest.mark.parametrize("view", ["volume", "axial"])
def test_with_maps_a_batch_says_what_lies_inside_where_images_are_made_smaller(tmp_path, view):
    """The labels of these cases have no 255 of their own: it says what lies outside, but for corners that are cut."""
    smaller = Augment(**PLAIN.model_dump(exclude={"resize"}), resize={"probability": 1.0, "factor": (0.6, 0.6)})
    patch = (24, 20, 18) if view == "volume" else (24, 20, 1)
    volumes = {"labeled": [mapped_case(tmp_path, f"m{i}", i) for i in range(2)]}
    stream = Stream("labeled", ("label", "there"))
    for padding in ("minimum", "edge"):
        data = spec(patch, augment=smaller, view=view, padding=padding)
        batch = streams(volumes, {"labeled": 2}, data, streams=(stream,))[0]["labeled"]
        inside, labelled = batch["inside"], batch["label"] != 255
        assert bool(labelled[inside].all())
        assert 0.8 * int(labelled.sum()) <= int(inside.sum()) < inside.numel()
    whole = streams(volumes, {"labeled": 2}, spec(patch, augment=PLAIN, view=view), streams=(stream,))
    assert "inside" not in whole[0]["labeled"]


@pytest.mark.parametrize("view", ["volume", "axial"])
def test_a_place_tells_where_in_the_body_each_voxel_is(tmp_path, view):
    """Images of coordinates, whose body is all that they show: 0 to 1 along each axis."""
    turned = Augment(flip={"axes": (0, 1)}, rot90={"axes": (0, 1)}, affine={"probability": 0},
                     **{name: {"probability": 0} for name in INTENSITY})  # fmt: skip
    coordinates = np.stack(np.meshgrid(*[np.arange(length) for length in SHAPE], indexing="ij"))
    case = replace(cached(tmp_path, "c", coordinates), body=tuple("1" * length for length in SHAPE))
    patch = (8, 8, 8) if view == "volume" else (8, 8, 1)
    data = replace_modality(spec(patch, augment=turned, view=view))
    stream = Stream("unlabeled", ("place",))
    axes = 3 if view == "volume" else 2
    for number in range(6):
        batch = streams({"unlabeled": [case]}, {"unlabeled": 2}, data, streams=(stream,))[number]["unlabeled"]
        for image, place in zip(batch["image"], batch["place"], strict=True):
            assert place.shape == (axes, axes + 1)
            voxels = torch.stack(torch.meshgrid(*[torch.arange(8.0)] * axes, indexing="ij"))
            said = torch.einsum("ab,b...->a...", place[:, :-1], voxels) + place[:, -1].view(-1, *[1] * axes)
            ends = torch.tensor(SHAPE[:axes]).view(-1, *[1] * axes) - 1
            assert torch.allclose(said * ends, image[:axes], atol=1e-3)


def replace_modality(data: DataSpec) -> DataSpec:
    return data.model_copy(update={"modality": ("MR",) * 3, "padding": "edge"})


def test_tags_say_present_absent_and_not_known(tmp_path):
    tagged = replace(some_case(tmp_path, "t", 1, labelled=False), presence={1: True})
    looked = replace(some_case(tmp_path, "n", 2, labelled=False), presence={1: False, 2: False})
    outlined = cached(tmp_path, "o", np.zeros((1, *SHAPE)), np.full(SHAPE, 2, np.uint8))
    partly = replace(outlined, covered=(True, False, True))
    cases = [tagged, looked, outlined, partly]
    assert [case.tags(3).tolist() for case in cases] == [[1, 255], [0, 0], [0, 1], [255, 1]]


def test_a_group_shares_a_tag_and_every_tag_has_its_turn(tmp_path):
    having = [{1: True, 2: False}, {1: True, 2: True}, {1: False, 2: True}, {1: True}, {1: False, 2: False}]
    cases = [
        replace(some_case(tmp_path, f"c{i}", i, labelled=False), presence=presence) for i, presence in enumerate(having)
    ]
    stream = Stream("weak", ("tags", "index"), group="tags")
    for rank in (0, 1):
        data = streams({"weak": cases}, {"weak": 4}, total=40, streams=(stream,), rank=(rank, 2))
        shared, used = [], set()
        for iteration in range(40):
            batch = data[iteration]["weak"]
            for group in (slice(0, 2), slice(2, 4)):
                both = (batch["tags"][group] == 1).all(0)
                assert bool(both.any())
                shared.append(tuple(both.tolist()))
                first, second = batch["index"][group].tolist()
                assert first != second, "each tag has at least two cases"
                used |= {first, second}
        assert {(True, False), (False, True)} <= set(shared)
        assert used == {0, 1, 2, 3}, "a case without any tag is in no group"
    with pytest.raises(DataError, match="no case has a tag of any class"):
        streams({"weak": cases[4:]}, {"weak": 2}, streams=(stream,))


def test_a_group_larger_than_the_cases_that_have_a_tag_has_some_twice(tmp_path):
    cases = [replace(some_case(tmp_path, f"c{i}", i, labelled=False), presence={1: True}) for i in range(5)]
    for size, most in ((2, 1), (3, 1), (5, 1), (7, 2)):
        order = TagOrder(cases, 3, size)
        seen = set()
        for group in range(20):
            of_group = [order.case(0, "weak", group * size + place) for place in range(size)]
            assert max(of_group.count(index) for index in of_group) == most
            seen |= set(of_group)
        assert seen == {0, 1, 2, 3, 4}


def test_labels_say_which_classes_they_cover_where_some_do_not(volumes):
    assert "covered" not in streams(volumes)[0]["labeled"]
    volumes["labeled"][0] = replace(volumes["labeled"][0], covered=(True, True, False))
    data = streams(volumes, {"labeled": 5})
    covered, names = data[0]["labeled"]["covered"], data.cases_of(0)["labeled"]
    assert covered.dtype == torch.bool
    assert covered.tolist() == [[True, True, name != "l0"] for name in names]


def test_what_cannot_be_sampled_is_refused(volumes):
    with pytest.raises(DataError, match="asks for 6 labelled volumes, there are 5"):
        streams(volumes, {"labeled": 6})
    with pytest.raises(DataError, match="no labelled case"):
        streams({"unlabeled": volumes["unlabeled"]})
    with pytest.raises(DataError, match="'scribbles', which has no case"):
        streams(volumes, {**BATCH, "scribbles": 1})
    with pytest.raises(DataError, match=r"u0\.nii\.gz.*no label"):
        streams({"labeled": volumes["unlabeled"]}, {"labeled": 1})
    with pytest.raises(ConfigError, match="axial needs 1 along axis 2"):
        streams(volumes, data=spec(view="axial"))
    with pytest.raises(IndexError):
        streams(volumes)[12]


def test_without_unlabelled_cases_the_stream_is_left_out(volumes):
    data = streams({"labeled": volumes["labeled"], "unlabeled": []})
    assert list(data[0]) == ["labeled"]
    assert list(data.cases_of(0)) == ["labeled"]


def test_small_shared_memory_means_fewer_workers(volumes, tmp_path):
    data = streams(volumes, data=spec((8, 8, 8)))
    free = _affordable(data, tmp_path)
    huge = streams(volumes, data=spec((40000, 40000, 4000)))
    assert free > 100
    assert _affordable(huge, tmp_path) == 0
    assert make_loader(huge, start=0, workers=4, device=CPU).num_workers == 0


def test_a_limit_of_file_size_means_no_workers(volumes):
    """A batch is several patches of 8 x 8 x 8 voxels of 4 bytes, 2 KiB each: more than a worker could write."""
    data = streams(volumes)
    with full_disk(2 * 1024):
        loader = make_loader(data, start=0, workers=1, device=CPU)
        assert loader.num_workers == 0
        assert len(list(loader)) == data.total
    assert make_loader(data, start=0, workers=1, device=CPU).num_workers == 1
    assert make_loader(data, start=0, workers=1, device=CPU).timeout > 0


class _NeverReady(Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, number: int) -> torch.Tensor:
        time.sleep(60)
        return torch.zeros(1)


class _Dies(_NeverReady):
    def __getitem__(self, number: int) -> torch.Tensor:
        os._exit(1)


@pytest.mark.parametrize("data", [_NeverReady(), _Dies()])
def test_a_worker_that_is_lost_is_told_in_one_line(data):
    loader = DataLoader(data, batch_size=None, num_workers=1, timeout=1)
    with pytest.raises(OutputError, match="a process that makes batches is lost") as caught, lost_workers():
        list(loader)
    assert "\n" not in str(caught.value)
    with pytest.raises(RuntimeError, match="something else"), lost_workers():
        raise RuntimeError("something else")


def test_no_more_workers_than_cores_that_may_be_used(volumes, one_core):
    """More would only wait for each other, and PyTorch warns of them, which here is an error."""
    assert make_loader(streams(volumes), start=0, workers=4, device=CPU).num_workers == 1
    assert make_loader(streams(volumes), start=0, workers=0, device=CPU).num_workers == 0


LOOP = """
import signal, sys, torch
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell starts its children with it ignored
sys.path[:0] = [{tests!r}, {support!r}]
import test_streams as t
folder = Path({folder!r})
volumes = {{"labeled": [t.some_case(folder, f"case{{i}}", i) for i in range(2)]}}
data = t.streams(volumes, {{"labeled": 1}}, total=10**6)
for i, _ in enumerate(t.make_loader(data, start=0, workers=2, device=t.CPU)):
    if i == 3:
        print("running", flush=True)
"""


def test_interrupt_stops_the_parent_and_leaves_no_worker(tmp_path):
    here = Path(__file__).parent
    code = LOOP.format(tests=str(here), support=str(here.parents[1] / "support"), folder=str(tmp_path))
    command = [sys.executable, "-c", code]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert run.stdout is not None
    assert run.stdout.readline() == "running\n"
    os.killpg(run.pid, signal.SIGINT)
    try:
        _, errors = run.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        os.killpg(run.pid, signal.SIGKILL)
        raise
    assert errors.count("KeyboardInterrupt\n") == 1, errors  # of the parent alone
    time.sleep(0.2)
    with pytest.raises(ProcessLookupError):
        os.killpg(run.pid, 0)


def test_half_of_the_patches_are_of_annotated_cases_where_labels_are_learnt_from_alone(tmp_path):
    """One of five cases is annotated: half of the labelled patches are of it, and a fifth of those without labels."""
    cases = [replace(some_case(tmp_path, f"c{number}", number), pseudo=number > 0) for number in range(5)]
    data = streams(
        {"labeled": cases, "all": cases},
        {"labeled": 2, "all": 5},
        spec(sampling="half"),
        streams=(LABELED, ALL),
    )
    for number in range(4):
        drawn = data.cases_of(number)
        assert drawn["labeled"].count("c0") == 1
        assert sorted(drawn["all"]) == ["c0", "c1", "c2", "c3", "c4"]
