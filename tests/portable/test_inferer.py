"""Sliding windows: equal to MONAI's, exact geometry, symmetric, bounded, and mending a lack of memory."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.data.utils import dense_patch_slices, list_data_collate
from monai.inferers import sliding_window_inference
from monai.transforms import Orientation
from torch import nn

from medseg.portable.inference.restore_grid import channel_argmax
from medseg.portable.inference.sliding_window import SlabInferer
from medseg.portable.inference.windows import split_into_batches, window_starts
from medseg.portable.networks.adapters import Planar
from medseg.portable.resample import Resampled

torch.manual_seed(0)


def network(classes: int = 3, channels: int = 1) -> nn.Module:
    torch.manual_seed(1)
    first, last = nn.Conv3d(channels, 6, 3, padding=1), nn.Conv3d(6, classes, 3, padding=1)
    return nn.Sequential(first, nn.Tanh(), last).eval()


def smooth(*shape: int, seed: int = 0) -> torch.Tensor:
    coarse = torch.randn(1, 1, 5, 5, 5, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=shape, mode="trilinear", align_corners=True)[0] * 3


def volume(*shape: int, axes: str = "RAS", spacing=(1.0, 1.0, 1.0), seed: int = 0) -> MetaTensor:
    """As the reader would give it: stored along `axes`, the affine in RAS."""
    image = MetaTensor(smooth(*shape, seed=seed), affine=torch.diag(torch.tensor([*spacing, 1.0]).double()))
    image.affine[:3, 3] = torch.tensor([-10.0, 20.0, 5.0])
    stored = Orientation(axcodes=axes, labels=None)(image)
    meta = {"original_affine": stored.affine.clone(), "spatial_shape": np.array(stored.shape[1:])}
    return MetaTensor(stored.as_tensor(), meta={"affine": stored.affine, **meta})


def reference_logits(image, net, roi, overlap):
    with torch.no_grad():
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        return sliding_window_inference(plain[None], roi, 2, net, overlap=overlap, mode="gaussian")[0]


def probabilities_of(inferer: SlabInferer, image, net) -> tuple[torch.Tensor, np.ndarray]:
    kept = []

    def make(shape):
        kept.append(np.zeros(shape, np.uint8))
        return kept[-1]

    inferer.probabilities = make
    return inferer(image[None], net), kept[-1]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 40), st.sampled_from([0.0, 0.25, 0.5, 0.6, 0.75, 0.9]))
def test_starts_are_monais(size, window, overlap):
    size = max(size, window)
    step = max(1, int(window * (1 - overlap))) if window < size else window
    theirs = [s[0].start for s in dense_patch_slices((size,), (window,), (step,))]
    assert window_starts(size, window, overlap) == theirs


@given(st.integers(1, 50), st.integers(2, 9))
def test_batches_cover_everything_without_a_single_last_window(count, size):
    got = split_into_batches([(i, 0, 0) for i in range(count)], size)
    assert list(itertools.chain(*got)) == [(i, 0, 0) for i in range(count)]
    assert max(map(len, got)) <= size + 1
    assert count == 1 or min(map(len, got)) > 1


@pytest.mark.parametrize(
    ("shape", "roi", "overlap"),
    [
        ((40, 33, 29), (16, 16, 16), 0.5),
        ((20, 45, 31), (16, 20, 8), 0.25),
        ((17, 18, 50), (16, 16, 8), 0.6),
        ((30, 20, 24), (30, 20, 24), 0.5),
        ((24, 31, 9), (24, 16, 1), 0.5),
        ((9, 31, 24), (1, 16, 16), 0.0),
        ((8, 8, 90), (8, 8, 12), 0.75),
    ],
)
@pytest.mark.parametrize("classes", [2, 4])
def test_labels_are_those_of_monai(shape, roi, overlap, classes):
    image, net = smooth(*shape), network(classes)
    labels = SlabInferer(roi, overlap, restore=False)(image[None], net)
    logits = reference_logits(image, net, roi, overlap)
    assert labels.dtype == torch.uint8
    assert labels.shape == (1, 1, *shape)
    disagree = labels[0, 0] != logits.argmax(0)
    top = logits.topk(2, 0).values
    assert bool(((top[0] - top[1])[disagree] < 1e-5).all())
    assert int(disagree.sum()) <= 2


def test_probabilities_are_those_of_monai_and_labels_their_first_maximum():
    image, net = smooth(40, 33, 29), network(4)
    labels, stored = probabilities_of(SlabInferer((16, 16, 16), restore=False), image, net)
    expected = reference_logits(image, net, (16, 16, 16), 0.5).softmax(0)
    np.testing.assert_allclose(stored / 255, expected.numpy(), atol=1.51 / 255)
    np.testing.assert_array_equal(stored.argmax(0), labels[0, 0].numpy())
    np.testing.assert_array_equal(labels, SlabInferer((16, 16, 16), restore=False)(image[None], net))


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SAL", "IPR", "PIR"])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.2, 1.6, 0.7)])
def test_coarse_logits_are_interpolated_on_the_files_own_grid(axes, spacing):
    stored, net = volume(26, 24, 38, axes=axes, spacing=spacing), network(3)
    ras = Orientation(axcodes="RAS", labels=None)(stored)
    prepared = Resampled("image", (1.5, 1.5, 1.5))({"image": ras})["image"]
    labels, probabilities = probabilities_of(SlabInferer((16, 16, 12)), prepared, net)
    assert labels.shape[2:] == stored.shape[1:]
    torch.testing.assert_close(torch.as_tensor(labels.affine), stored.affine)
    logits = reference_logits(prepared, net, (16, 16, 12), 0.5)
    fine = F.interpolate(logits[None], size=ras.shape[1:], mode="trilinear", align_corners=False)[0]
    back = Orientation(axcodes=axes, labels=None)(MetaTensor(fine, affine=ras.affine)).as_tensor()
    np.testing.assert_allclose(probabilities / 255, back.softmax(0).numpy(), atol=1.51 / 255)
    assert int((labels[0, 0] != back.argmax(0)).sum()) <= 2
    np.testing.assert_array_equal(probabilities.argmax(0), labels[0, 0])


def test_finer_grids_are_coarsened_back():
    stored, net = volume(20, 22, 9, spacing=(3.0, 3.0, 3.0)), network(2)
    prepared = Resampled("image", (0.9, 1.0, 7.0))({"image": stored})["image"]
    labels = SlabInferer((16, 16, 2))(prepared[None], net)
    logits = reference_logits(prepared, net, (16, 16, 2), 0.5)
    steps = ((20, 67 / 20), (22, 3.0), (9, 4 / 9))
    points = [torch.arange(n, dtype=torch.float32) * f + (f - 1) / 2 for n, f in steps]
    norm = [2 * p.clamp(0, m - 1) / (m - 1) - 1 for p, m in zip(points, logits.shape[1:], strict=True)]
    grid = torch.stack(torch.meshgrid(*norm, indexing="ij"), -1).flip(-1)[None]
    expected = F.grid_sample(logits[None], grid, align_corners=True, padding_mode="border")[0]
    assert int((labels[0, 0].as_tensor() != expected.argmax(0)).sum()) <= 2


def test_storage_order_does_not_matter():
    net, base = network(3), None
    for axes in ("RAS", "LAS", "PRS", "SRA"):
        stored = volume(22, 19, 31, axes=axes, spacing=(1.0, 1.3, 0.8))
        ras = Orientation(axcodes="RAS", labels=None)(stored)
        prepared = Resampled("image", (1.2, 1.2, 1.2))({"image": ras})["image"]
        labels = SlabInferer((16, 16, 16))(prepared[None], net)[0]
        world = Orientation(axcodes="RAS", labels=None)(labels).as_tensor()
        base = world if base is None else base
        assert torch.equal(world, base)


@pytest.mark.parametrize("axes", [(0,), (0, 2), (0, 1, 2)])
def test_mirroring_makes_prediction_equivariant(axes):
    image, net = smooth(24, 24, 24), network(3)
    inferer = SlabInferer((24, 24, 24), mirror_axes=axes, restore=False)
    one = probabilities_of(inferer, image, net)[1].astype(int)
    where = [a + 1 for a in axes]
    other = probabilities_of(inferer, image.flip(where), net)[1].astype(int)
    assert abs(np.flip(other, where) - one).max() <= 1
    plain = probabilities_of(SlabInferer((24, 24, 24), restore=False), image, net)[1].astype(int)
    assert abs(plain - one).max() > 1


def test_a_pointwise_network_without_overlap_is_called_as_if_directly():
    image, net = smooth(32, 16, 48), nn.Conv3d(1, 5, 1)
    labels = SlabInferer((16, 16, 16), overlap=0.0, restore=False)(image[None], net)
    assert torch.equal(labels[0, 0].long(), net(image[None]).argmax(1)[0])


@pytest.mark.parametrize(("padding", "of_monai"), [("edge", "replicate"), ("zero", "constant")])
@pytest.mark.parametrize("shape", [(9, 31, 24), (10, 9, 11), (1, 20, 7)])
def test_with_repeated_edges_or_zeros_small_volumes_are_those_of_monai_too(shape, padding, of_monai):
    image, net = smooth(*shape), network(3)
    inferer = SlabInferer((16, 16, 16), restore=False, padding=padding)
    with torch.no_grad():
        settings_of_monai = {"overlap": 0.5, "mode": "gaussian", "padding_mode": of_monai}
        logits = sliding_window_inference(image[None], (16, 16, 16), 2, net, **settings_of_monai)[0]
    assert int((inferer(image[None], net)[0, 0] != logits.argmax(0)).sum()) <= 2


def test_unknown_padding_is_refused():
    with pytest.raises(ValueError, match="padding must be one of minimum, edge, zero, got 'mean'"):
        SlabInferer((16, 16, 16), padding="mean")


def test_an_overlap_for_each_axis_is_monais():
    image, net = smooth(30, 26, 41), network(3)
    labels = SlabInferer((16, 16, 16), (0.25, 0.5, 0.75), restore=False)(image[None], net)
    logits = reference_logits(image, net, (16, 16, 16), (0.25, 0.5, 0.75))
    assert int((labels[0, 0] != logits.argmax(0)).sum()) <= 2
    with pytest.raises(ValueError, match=r"one number or three, got \(0.5, 0.5\)"):
        SlabInferer((16, 16, 16), (0.5, 0.5))


@pytest.mark.parametrize("shape", [(5, 40, 9), (1, 1, 1), (30, 3, 30)])
def test_volumes_smaller_than_the_window_see_background_around(shape):
    image, net = smooth(*shape) + 7, network(3)
    seen = []
    net.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    labels = SlabInferer((16, 16, 16), restore=False)(image[None], net)
    assert labels.shape[2:] == shape
    padding = [(max(0, 16 - n) // 2, max(0, 16 - n) - max(0, 16 - n) // 2) for n in shape]
    padded = F.pad(image, [*padding[2], *padding[1], *padding[0]], value=float(image.min()))
    logits = reference_logits(padded, net, (16, 16, 16), 0.5)
    inside = tuple(slice(b, b + n) for (b, _), n in zip(padding, shape, strict=True))
    assert torch.equal(labels[0, 0].long(), logits.argmax(0)[inside])


def test_planar_windows_go_through_a_2d_network_in_large_batches():
    torch.manual_seed(2)
    flat = nn.Conv2d(1, 3, 3, padding=1)
    image, sizes = smooth(20, 24, 30), []
    net = Planar(flat, axis=2)
    net.register_forward_hook(lambda module, args, out: sizes.append(len(args[0])))
    labels = SlabInferer((20, 24, 1), restore=False)(image[None], net)
    assert sizes == [30]
    expected = flat(image[0].permute(2, 0, 1)[:, None]).argmax(1).permute(1, 2, 0)
    assert torch.equal(labels[0, 0].long(), expected)


def test_label_values_and_progress():
    image, net, calls = smooth(20, 20, 20), network(3), []
    plain = SlabInferer((16, 16, 16), restore=False)(image[None], net)
    inferer = SlabInferer((16, 16, 16), restore=False, label_values=[0, 7, 250])
    inferer.progress = lambda *done: calls.append(done)
    values = inferer(image[None], net)
    assert torch.equal(torch.tensor([0, 7, 250], dtype=torch.uint8)[plain.long()], values)
    assert calls[-1] == (8, 8)


def test_batches_of_a_loader_are_understood():
    stored, net = volume(20, 18, 22, axes="LPS"), network(2)
    item = {"image": Orientation(axcodes="RAS", labels=None)(stored)}
    alone = SlabInferer((16, 16, 16))(item["image"][None], net)
    batch = list_data_collate([item])
    together = SlabInferer((16, 16, 16))(batch["image"], net)
    assert together.is_batch
    assert torch.equal(together.as_tensor(), alone.as_tensor())
    torch.testing.assert_close(together.affine[0], stored.affine)


class Hungry(nn.Module):
    """Runs out of memory above some number of voxels."""

    def __init__(self, net: nn.Module, voxels: int, error: Exception) -> None:
        super().__init__()
        self.net, self.voxels, self.error = net, voxels, error

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        if windows.numel() > self.voxels:
            raise self.error
        return self.net(windows)


SHORTAGES = [
    torch.OutOfMemoryError("no memory on the card"),
    MemoryError("no memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("error", SHORTAGES)
def test_lack_of_memory_halves_the_batch_and_changes_nothing(error, caplog):
    image, net = smooth(64, 64, 64), network(3)
    inferer = SlabInferer((32, 32, 32), restore=False)
    expected = inferer(image[None], net)
    labels = inferer(image[None], Hungry(net, 4 * 32**3, error))
    assert torch.equal(labels, expected)
    assert [r.message.split("with ")[1] for r in caplog.records] == ["8 windows at once", "4 windows at once"]


def test_lack_of_memory_ends_in_smaller_windows(caplog):
    image, net = smooth(40, 40, 40), network(3)
    hungry = Hungry(net, 32**3 - 1, MemoryError("none"))
    labels = SlabInferer((32, 32, 32), restore=False)(image[None], hungry)
    assert torch.equal(labels, SlabInferer((16, 16, 16), restore=False)(image[None], net))
    assert caplog.records[-1].message.endswith("windows of 16 x 16 x 16 voxels, which see less around them")


def test_a_lack_of_memory_that_nothing_mends_is_passed_on():
    with pytest.raises(MemoryError, match="none"):
        SlabInferer((32, 32, 32))(smooth(8, 8, 8)[None], Hungry(network(), 0, MemoryError("none")))


@pytest.mark.parametrize(
    ("error", "call"),
    [
        ("one image", lambda net: SlabInferer((8, 8, 8))(torch.zeros(2, 1, 8, 8, 8), net)),
        ("one image", lambda net: SlabInferer((8, 8, 8))(torch.zeros(1, 8, 8, 8), net)),
        ("NaN", lambda net: SlabInferer((8, 8, 8))(torch.full((1, 1, 8, 8, 8), float("nan")), net)),
        ("size", lambda net: SlabInferer((8, 8, 8))(torch.zeros(1, 1, 8, 8, 8), lambda x: x[..., :4])),
        ("channels", lambda net: SlabInferer((8, 8, 8))(torch.zeros(1, 1, 8, 8, 8), lambda x: x)),
        ("channels", lambda net: SlabInferer((8,) * 3, label_values=[0, 1])(torch.zeros(1, 1, 8, 8, 8), net)),
        ("roi_size", lambda net: SlabInferer((8, 8))),
        ("overlap", lambda net: SlabInferer((8, 8, 8), overlap=1.0)),
    ],
)
def test_what_cannot_be_predicted_is_refused(error, call):
    with pytest.raises(ValueError, match=error):
        call(network(3))


def test_a_rotated_image_is_refused():
    image = volume(8, 8, 8)
    image.affine[:2, :2] = torch.tensor([[0.9, -0.4], [0.4, 0.9]]).double()
    with pytest.raises(ValueError, match="rotated"):
        SlabInferer((8, 8, 8))(image[None], network(3))


@pytest.mark.parametrize("channels", [2, 3, 14])
def test_strongest_is_argmax_with_the_first_of_equals(channels):
    logits = torch.randint(0, 4, (channels, 7, 6, 5)).float()
    assert torch.equal(channel_argmax(logits).long(), torch.from_numpy(logits.numpy().argmax(0)))
