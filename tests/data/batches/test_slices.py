"""Slices of volumes as training data: which ones, cut how, and shared by which cases; and the plan for planes."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter

import nibabel as nib
import numpy as np
import pytest
import torch
from test_streams import PLAIN, cached, some_case, spec
from tiny import write_dataset

from medseg.config.pipeline import Augment, DataSpec, NetworkSpec, Stage
from medseg.data import sampling
from medseg.data.body_slices import EMPTY_SHARE, body_slices, slice_weights
from medseg.data.cache import VolumeCache
from medseg.data.streams import PatchStreams
from medseg.errors import ConfigError, DataError
from medseg.manifest.manifest import Manifest
from medseg.networks.sizes import plan_strides
from medseg.planning.plan import plan_data
from medseg.planning.planes import STRIDE, even_spacing, plan_slices
from medseg.portable.planes import PLANES

SHAPE = (5, 6, 7)
ZOOMED = Augment(
    affine={"probability": 1, "scale": (0.7, 1.0)},
    **{name: {"probability": 0} for name in ("contrast", "gamma", "noise")},
)


def numbered(folder, axis: int, shape=SHAPE):
    """A case whose every slice across an axis holds its own number, in both of two channels."""
    numbers = np.arange(shape[axis]).reshape([-1 if a == axis else 1 for a in range(3)])
    image = np.broadcast_to(numbers, shape).astype(np.float16)
    return cached(folder, f"numbered{axis}", np.stack([image, image + 100]), (1 + image % 2).astype(np.uint8))


def planar(view: str, **changes) -> DataSpec:
    data = {"patch": (8, 8, 8), "slices": 3, "augment": PLAIN, **changes}
    return spec(**data).model_copy(update={"modality": ("MR", "MR")}).of_view(view)


@pytest.mark.parametrize("augment", [PLAIN, ZOOMED])
@pytest.mark.parametrize("view", PLANES)
def test_neighbours_come_as_channels_and_the_outermost_slice_twice(view, augment, tmp_path):
    axis = PLANES.index(view)
    made = PatchStreams(
        {"labeled": [numbered(tmp_path, axis)]}, planar(view, augment=augment), {"labeled": 48}, seed=1, total=1
    )[0]["labeled"]
    image, label = made["image"], made["label"]
    assert image.shape == (48, 6, 8, 8)
    assert label.shape == (48, 1, 8, 8)
    last, seen = SHAPE[axis] - 1, set()
    for row, drawn in zip(image, label, strict=True):
        # the patch is larger than the slice: what lies beside it is background, the smallest value
        middle = int(row[1].max().round())
        seen.add(middle)
        near = [max(middle - 1, 0), middle, min(middle + 1, last)]
        assert [round(float(c.max()), 3) for c in row] == [*near, *(n + 100 for n in near)]
        assert int(drawn.max()) == 1 + middle % 2
    assert {0, last} <= seen


@pytest.mark.parametrize("view", PLANES)
def test_a_whole_slice_is_the_slice(view, tmp_path):
    axis, case = PLANES.index(view), some_case(tmp_path, "a", 0, shape=(16, 16, 16))
    data = spec(patch=(16, 16, 16), augment=PLAIN).of_view(view)
    made = PatchStreams({"labeled": [case]}, data, {"labeled": 4}, seed=1, total=1)[0]["labeled"]
    slices = np.moveaxis(case.image[0], axis, 0).astype(np.float32)
    labels = np.moveaxis(case.label, axis, 0)
    for image, label in zip(made["image"][:, 0].numpy(), made["label"][:, 0].numpy(), strict=True):
        found = [i for i in range(16) if np.array_equal(slices[i], image)]
        assert len(found) == 1
        np.testing.assert_array_equal(labels[found[0]], label)


def body_in_air(shape=(20, 24, 30)) -> tuple[np.ndarray, tuple[slice, ...]]:
    inside = (slice(5, 15), slice(4, 20), slice(10, 22))
    image = np.random.default_rng(0).normal(-1000, 20, (1, *shape))
    image[(0, *inside)] += 1040
    return image.astype(np.float16), inside


def test_slices_of_air_are_known_along_every_axis():
    image, inside = body_in_air()
    for axis, text in enumerate(body_slices(image, None)):
        expected = ["0"] * image.shape[axis + 1]
        expected[inside[axis]] = "1" * (inside[axis].stop - inside[axis].start)
        assert text == "".join(expected)
    label = np.zeros(image.shape[1:], np.uint8)
    label[2, 1, 3], label[0, 0, 0] = 1, 255  # a drawn voxel makes a slice worth seeing, an ignored one does not
    x, y, z = body_slices(image, label)
    assert (x[2], y[1], z[3], x[0], y[0], z[0]) == ("1", "1", "1", "0", "0", "0")
    assert body_slices(np.zeros((1, 2, 3, 4), np.float16), None) == ("11", "111", "1111")


@pytest.mark.parametrize("view", PLANES)
def test_slices_of_air_are_seldom_taken(view, tmp_path):
    axis, (image, inside) = PLANES.index(view), body_in_air()
    case, rng = cached(tmp_path, "a", image), np.random.default_rng(0)
    patch = [1 if a == axis else 16 for a in range(3)]
    starts = [sampling.start_of(case, patch, rng, across=axis)[axis] for _ in range(4000)]
    weights = slice_weights(case.body, axis)
    assert set(weights) == {1.0, EMPTY_SHARE}
    counts = np.bincount(starts, minlength=len(weights)) / len(starts)
    np.testing.assert_allclose(counts, weights / weights.sum(), atol=0.025)
    assert counts[inside[axis]].sum() > 0.85


def count_cases(folder, rule: str, view: str = "axial", samples: int = 2000) -> Counter:
    """How often each case of a stream is taken: two drawn ones, the second four times as thick, and a pseudo-label."""
    shapes = {"thin": (8, 8, 5), "thick": (8, 8, 20), "predicted": (8, 8, 75)}
    cases = [some_case(folder, name, i, shape=shape) for i, (name, shape) in enumerate(shapes.items())]
    cases[2] = dataclasses.replace(cases[2], pseudo=True)
    data = spec(patch=(8, 8, 8), augment=PLAIN, sampling=rule).of_view(view)
    made = PatchStreams({"labeled": cases}, data, {"labeled": 1}, seed=3, total=samples)
    return Counter(name for i in range(samples) for name in made.cases_of(i)["labeled"])


def test_rows_are_shared_by_cases_by_slices_or_half_and_half(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir(), (tmp_path / "c").mkdir()
    assert {n: abs(c - 667) <= 1 for n, c in count_cases(tmp_path / "a", "cases").items()} == dict.fromkeys(
        ("thin", "thick", "predicted"), True
    )
    union, half = count_cases(tmp_path / "b", "union"), count_cases(tmp_path / "c", "half")
    np.testing.assert_allclose([union[n] / 2000 for n in ("thin", "thick", "predicted")], [0.05, 0.2, 0.75], atol=0.03)
    assert half["predicted"] == 1000
    np.testing.assert_allclose(half["thin"] / 1000, 0.2, atol=0.04)


def test_volumes_are_shared_by_cases_and_half_without_pseudo_labels_is_all(tmp_path):
    (tmp_path / "a").mkdir()
    assert max(count_cases(tmp_path / "a", "union", "volume", 300).values()) == 100
    cases = [some_case(tmp_path, name, i) for i, name in enumerate("bc")]
    data = spec(patch=(8, 8, 8), sampling="half")
    made = PatchStreams({"labeled": cases}, data, {"labeled": 1}, seed=3, total=4)
    assert Counter(name for i in range(4) for name in made.cases_of(i)["labeled"]) == {"b": 2, "c": 2}


def test_a_case_of_the_manifest_may_say_that_its_label_was_predicted(tmp_path):
    path = write_dataset(tmp_path / "data")
    content = json.loads(path.read_text())
    content["training"][1]["pseudo"] = True
    path.write_text(json.dumps(content))
    manifest = Manifest.load(path)
    data = plan_data(manifest, network=NetworkSpec(name="unet"), memory_bytes=1e12)
    made = VolumeCache(tmp_path / "cache").prepare(manifest, manifest.training, data)
    assert [volume.pseudo for volume in made] == [False, True]


def planned(path, *views: str, **given) -> DataSpec:
    return plan_data(
        Manifest.load(path), network=NetworkSpec(name="unet"), memory_bytes=1e12, overrides=given, views=views
    )


def test_planes_share_a_grid_and_a_patch_of_whole_slices(tmp_path):
    path = write_dataset(tmp_path, shape=(40, 33, 20), spacing=(1.0, 1.0, 2.0))
    data = planned(path, *PLANES)
    assert (data.view, data.patch, data.resample_axes) == ("volume", (48, 48, 32), (True, True, True))
    stage = Stage(method={"name": "supervised"}, views=PLANES)
    for across, each in enumerate(stage.specs(data)):
        assert each.patch == tuple(1 if axis == across else n for axis, n in enumerate(data.patch))
        assert (each.spatial_dims, each.spacing_mm) == (2, data.spacing_mm)
        strides = np.prod(plan_strides(each.network_patch), 0)
        assert not np.any(np.array(each.network_patch) % strides)
    assert planned(path, "axial").patch[2] == 1
    assert planned(path, "axial").resample_axes == (True, True, False)
    assert planned(path, *PLANES, view="volume") == data  # as a resolved pipeline says it


def test_slices_are_as_large_as_memory_lets_them_be():
    size, spacing = (512, 512, 300), np.array([0.8, 0.8, 1.5])
    assert plan_slices(size, spacing, 1e12) == (512, 512, 304)
    less = plan_slices(size, spacing, 200 * 200)
    assert less[0] * less[1] <= 200 * 200
    assert less[0] == less[1]
    assert all(n % STRIDE == 0 for n in less)
    assert 0.6 < less[2] * spacing[2] / (less[0] * spacing[0]) < 1.6


def test_thick_slices_are_resampled_with_a_warning_unless_they_are_asked_for(tmp_path):
    path = write_dataset(tmp_path, shape=(24, 20, 6), spacing=(1.0, 1.0, 5.0))
    with pytest.warns(UserWarning, match=r"slices along z are 5\.0 times as thick.*resampling to 1 x 1 x 3 mm"):
        assert planned(path, *PLANES).spacing_mm == (1, 1, 3)
    with pytest.warns(UserWarning, match=r"data\.spacing_mm: slices along z"):
        assert planned(path, *PLANES, spacing_mm=[1, 1, 5]).spacing_mm == (1, 1, 5)
    np.testing.assert_array_equal(even_spacing(np.array([1.0, 1.0, 3.0]), given=False), [1, 1, 3])


def test_planes_of_a_picture_are_refused(tmp_path):
    path = write_dataset(tmp_path)
    image = nib.load(tmp_path / "case2.nii.gz")
    nib.save(image.slicer[:, :1], tmp_path / "case2.nii.gz")
    with pytest.raises(DataError, match=r"case2.*one voxel along y, so that there is no sagittal, axial view.*superv"):
        planned(path, *PLANES)
    assert planned(path, "coronal").view == "coronal"


def test_views_that_contradict_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.view is axial, the stage has the views sagittal, coronal, axial"):
        planned(write_dataset(tmp_path), *PLANES, view="axial")
    with pytest.raises(ValueError, match="names a view twice: axial, axial"):
        Stage(method={"name": "supervised"}, views=("axial", "axial"))


@pytest.mark.parametrize(
    ("names", "sided"),
    [
        (["left kidney", "right kidney"], True),
        (["kidney_R", "kidney_L"], True),
        (["Lt lung", "Rt lung"], True),
        (["left atrium"], False),
        (["liver", "spleen"], False),
    ],
)
def test_left_and_right_are_not_mirrored(names, sided, tmp_path):
    data = spec().model_copy(update={"labels": {0: "background", **dict(enumerate(names, 1))}})
    assert data.has_sides is sided
    path = write_dataset(tmp_path)
    content = json.loads(path.read_text())
    content["labels"] = {"0": "background", "1": names[0], "2": names[-1] if len(names) > 1 else "other"}
    path.write_text(json.dumps(content))
    assert planned(path).augment.flip_axes == ()
    if sided:
        with pytest.raises(ConfigError, match="leave 0 out"):
            planned(path, augment={"flip": {"axes": [0]}})
        assert planned(path, augment={"flip": {"axes": [1]}}).augment.flip_axes == (1,)


def test_a_volume_cut_along_a_plane_and_put_together_is_the_volume():
    volume = torch.randn(1, 1, *SHAPE)
    from medseg.portable.networks.adapters import Planar

    kept = []

    def look(slices: torch.Tensor) -> torch.Tensor:
        kept.append(tuple(slices.shape))
        return slices * 2

    for axis in range(3):
        net = Planar(torch.nn.Identity(), axis)
        net.network.forward = look
        assert torch.equal(net(volume), volume * 2)
    assert kept == [(5, 1, 6, 7), (6, 1, 5, 7), (7, 1, 5, 6)]
