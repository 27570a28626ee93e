"""The deterministic preprocessing as plain `_target_` dictionaries: one list for training and bundle.

Train and serve cannot differ, since there is one list. All arguments are literal: no expression (`$`) and
no reference (`@`), so that a bundle of ours can be opened as data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.transforms import Compose

from medseg.config import instantiate as parts
from medseg.config.pipeline import DataSpec, Intensity

PACKAGE = "medseg.portable"


def _intensity(rule: Intensity | Sequence[Intensity], package: str) -> dict[str, Any]:
    """The image's own units to what the network reads."""
    if not isinstance(rule, Intensity):
        rules = [{} if each.kind == "zscore" else _scaling(each) for each in rule]
        return {"_target_": f"{package}.channel_intensity.ChannelIntensityd", "keys": ["image"], "rules": rules}
    if rule.kind == "zscore":
        return {"_target_": "monai.transforms.NormalizeIntensityd", "keys": ["image"], "channel_wise": True}
    return {"_target_": "monai.transforms.ScaleIntensityRanged", "keys": ["image"], **_scaling(rule)}


def _scaling(rule: Intensity) -> dict[str, Any]:
    """The keywords of a window, or of a fixed mean and divisor."""
    if rule.kind == "fixed":
        return {"a_min": rule.mean, "a_max": rule.mean + rule.std, "b_min": 0.0, "b_max": 1.0, "clip": False}
    return {
        "a_min": rule.low,
        "a_max": rule.high,
        "b_min": (rule.low - rule.mean) / rule.std,
        "b_max": (rule.high - rule.mean) / rule.std,
        "clip": True,
    }


def preprocessing(
    spec: DataSpec, keys: Sequence[str] = ("image",), package: str = PACKAGE, maps: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """From file names to network input: read, RAS, spacing, intensity.

    Args:
        spec: the plan's spacing and intensity rule.
        keys: "image" and whatever else lies on its grid; the others are labels (nearest, dtype kept).
        package: where our own classes live: "medseg.portable" here, "scripts" in a bundle.
        maps: keys that are no labels but maps of numbers, which are interpolated as the image is.

    Returns:
        Configurations for `instantiate` or a bundle's `preprocessing`; items come out as `(C, X, Y, Z)`.
    """
    names = list(keys)
    return [
        {
            "_target_": "monai.transforms.LoadImaged",
            "keys": names,
            "reader": f"{package}.io.monai_reader.VerifiedReader",
            "ensure_channel_first": True,
            "as_closest_canonical": True,  # saves Orientationd a pass over memory; it stays for what was read otherwise
        },
        {"_target_": "monai.transforms.Orientationd", "keys": names, "axcodes": "RAS", "labels": None},
        {
            "_target_": f"{package}.resample.Resampled",
            "keys": names,
            "spacing_mm": list(spec.spacing_mm),
            "axes": list(spec.resample_axes),
            "mode": ["linear" if name in ("image", *maps) else "nearest" for name in names],
        },
        _intensity(spec.intensity, package),
    ]


def instantiate(transforms: Sequence[dict[str, Any]]) -> Compose:
    """Make the transforms of a list of `_target_` dictionaries."""
    return Compose(parts.make(list(transforms), "preprocessing", PACKAGE))
