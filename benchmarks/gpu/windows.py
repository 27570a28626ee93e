"""Sliding windows over a body of 14 classes: ours, MONAI's inferer with an argmax, and the network alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from monai.inferers import SlidingWindowInferer
from pieces import SlabInferer, network_of, windows_of
from setting import Setting
from timing import free, measure
from torch import Tensor, nn

OVERLAP = 0.5
AT_ONCE = (2, 4)
Ways = dict[str, Callable[[nn.Module], Tensor | None]]


def sliding(setting: Setting) -> None:
    """Labels out of an image in main memory: seconds and GPU memory of each way, in torch's float32 and in bf16."""
    torch.manual_seed(0)
    sizes, device = setting.sizes, setting.device
    network = network_of("unet", sizes.classes).to(device)
    image = torch.randn(1, 1, *sizes.body)
    ways = candidates(setting, image)
    one_format(setting, "float32 (TF32 convolutions, torch's default)", network, ways)
    one_format(setting, "bf16", Halved(network, torch.bfloat16), ways)
    # last, for it takes long
    name = "float32, MONAI as for cards that cannot hold the sums, one round"
    one_format(setting, name, network, in_main_memory(setting, image), once=True)


class Halved(nn.Module):
    """A network under autocast, for inferers that know nothing of it."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, windows: Tensor) -> Tensor:
        """Logits of the network, in `dtype`."""
        with torch.autocast(windows.device.type, dtype=self.dtype):
            return self.network(windows)


@torch.no_grad()
def one_format(setting: Setting, name: str, network: nn.Module, ways: Ways, *, once: bool = False) -> None:
    """The rows of one number format; labels are compared with those of the first way that makes any."""
    x, y, z = setting.sizes.body
    table = f"sliding windows: {x}x{y}x{z}, {setting.sizes.classes} classes, {name}"
    rounds, warm_up = (1, 0) if once else (2, 1)
    alone = None
    wanted = None
    for what, way in ways.items():
        try:
            timing = measure(partial(way, network), setting.device, rounds=rounds, warm_up=warm_up)
        except torch.OutOfMemoryError as error:
            setting.journal.add(table, what=what, remark=str(error).splitlines()[0][:80])
            free(setting.device)
            continue
        alone = alone or timing.median
        labels = timing.result
        wanted = labels if wanted is None else wanted
        setting.journal.add(
            table,
            what=what,
            **{"s": timing.median, "of the first": timing.median / alone, "peak GiB": timing.peak_gib},
            **{"slowest / fastest": timing.spread, "same labels as the first, %": same(labels, wanted)},
        )
        del labels, timing
        free(setting.device)


def same(labels: Tensor | None, wanted: Tensor | None) -> float | None:
    """Per cent of voxels."""
    if labels is None or wanted is None:
        return None
    return 100 * float((labels.flatten() == wanted.flatten()).float().mean())


def candidates(setting: Setting, image: Tensor) -> Ways:
    """Name to what makes labels in main memory of a network; the network alone makes none."""
    sizes, device = setting.sizes, setting.device

    def alone(network: nn.Module) -> None:
        there = image[0].to(device)
        for windows in windows_of(there, sizes.window, OVERLAP, AT_ONCE[-1]):
            network(windows)

    def monai(at_once: int, network: nn.Module) -> Tensor:
        inferer = SlidingWindowInferer(sizes.window, at_once, OVERLAP, mode="gaussian")
        return labels_of(inferer(image.to(device), network))

    def ours(at_once: int, network: nn.Module) -> Tensor:
        return SlabInferer(sizes.window, OVERLAP, sw_batch_size=at_once, restore=False)(image, network)

    few, many = AT_ONCE
    return {
        f"the network alone, {many} windows at once": alone,
        f"MONAI, {many} at once, sums on the GPU, argmax": partial(monai, many),
        f"ours, {few} at once, as `medseg predict` does it": partial(ours, few),
        f"ours, {many} at once": partial(ours, many),
        f"MONAI, {few} at once, sums on the GPU, argmax": partial(monai, few),
    }


def in_main_memory(setting: Setting, image: Tensor) -> Ways:
    """MONAI's way for volumes whose sums do not fit on the GPU."""
    inferer = SlidingWindowInferer(
        setting.sizes.window,
        AT_ONCE[-1],
        OVERLAP,
        mode="gaussian",
        sw_device=setting.device,
        device=torch.device("cpu"),
    )
    return {
        f"MONAI, {AT_ONCE[-1]} at once, sums in main memory, argmax": lambda network: labels_of(inferer(image, network))
    }


def labels_of(logits: Tensor) -> Tensor:
    """The strongest class, brought to main memory as ours is."""
    return logits.argmax(1).to("cpu", torch.uint8)
