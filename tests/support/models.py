"""Small untrained models and images for tests of bundles and prediction."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from torch import nn

from medseg.bundle.bundle import write_bundle
from medseg.config.instantiate import build_network
from medseg.config.pipeline import DataSpec, Intensity, NetworkSpec
from medseg.networks import registry

LABELS = {0: "background", 1: "liver", 7: "spleen"}


def data_spec(**changes) -> DataSpec:
    settings = {
        "labels": LABELS,
        "modality": ("CT",),
        "spacing_mm": (1.5, 1.5, 2.0),
        "patch": (16, 16, 16),
        "intensity": Intensity(kind="window", low=-200, high=300, mean=40, std=60),
    }
    return DataSpec(**{**settings, **changes})


def definition_of(spec: DataSpec, name: str = "unet") -> dict:
    planar = 1 in spec.patch
    patch = [n for n in spec.patch if n > 1]
    channels = len(spec.modality)
    inner = registry.network_def(
        NetworkSpec(name=name, width=4), patch=patch, in_channels=channels, out_channels=len(spec.output_values)
    )
    return {"_target_": "medseg.portable.networks.adapters.Planar", "network": inner, "axis": 2} if planar else inner


def network_of(definition: dict) -> nn.Module:
    """Random weights, wide enough apart that all classes appear."""
    torch.manual_seed(3)
    network = build_network(definition).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2.0)
    return network


def make_bundle(
    folder: Path, spec: DataSpec | None = None, name: str = "unet", *, independent: bool = False
) -> Path:  # fmt: skip
    spec = spec or data_spec()
    definition = definition_of(spec, name)
    network = network_of(definition)
    return write_bundle(folder, network, network_def=definition, data=spec, name="tiny", independent=independent)


def make_image(path: Path, shape=(26, 30, 19), seed: int = 0, affine: np.ndarray | None = None) -> Path:
    """A smooth image stored along LPS with some rotation of the patient."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.normal(0, 250, (1, 1, 6, 6, 6))).float()
    size = tuple(shape) if len(shape) == 3 else (*shape, 1)
    smooth = nn.functional.interpolate(coarse, size=size, mode="trilinear")[0, 0].numpy()
    if affine is None:
        turn = np.deg2rad(8)
        affine = np.eye(4)
        affine[:2, :2] = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ np.diag([-1.2, -1.1])
        affine[2, 2] = 2.5
        affine[:3, 3] = [30, -12, 70]
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(smooth.reshape(shape).astype(np.int16), affine), path)
    return path


def labels_of(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)
