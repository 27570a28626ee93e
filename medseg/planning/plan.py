"""From a manifest to a plan: spacing, intensity rule, view, patch and batch size, by what the files themselves say.

Nothing here is tuned to a data set. The rules are those that the field has settled on (nnU-Net, Isensee et al.,
Nature Methods 2021: median spacing, intensities by modality), with sizes bounded by the memory at hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from pydantic import ValidationError

from medseg.config.known_keys import unknown_key
from medseg.config.literals import begins_expression
from medseg.config.pipeline import DataSpec, NetworkSpec, View
from medseg.errors import ConfigError, ManifestError
from medseg.manifest.manifest import Manifest
from medseg.networks.sizes import fit_size, plan_strides
from medseg.planning.augmentation import Questions, plan_augment
from medseg.planning.fingerprint import Fingerprint, native_spacing, read_fingerprint
from medseg.planning.intensity import intensity_rule
from medseg.planning.planes import THICK_RATIO, check_views, even_spacing, plan_slices
from medseg.portable.planes import PLANES, slice_axis

Triple = tuple[int, int, int]

PATCH_VOXELS = {3: 112 * 112 * 80, 2: 384 * 384}
"""Larger patches take too long without a GPU: the V-Net papers' size, and a whole slice of most scanners."""

GPU_PATCH_VOXELS = {3: 192 * 128 * 96, 2: 512 * 512}
"""Where there is memory for them: about what nnU-Net's planner takes for the left atrium."""

BATCH_SIZE = {3: 4, 2: 16}
"""Patches per step over all streams."""

SHARES = {"weak": 2}
"""Of the batch, where a stream has more than one: a tag says less than a label, so that more images are seen."""

BYTES_PER_VOXEL_AND_CHANNEL = 90
"""Activations and gradients of an encoder-decoder per input voxel and channel of its first level (measured)."""

STRIDED = ("vnet", "unet")
"""Networks whose strides may be any."""

FEW_SLICES = 16
"""With thick slices and fewer than this, a network in the plane sees all there is to see."""


def plan_data(
    manifest: Manifest,
    *,
    network: NetworkSpec,
    memory_bytes: float,
    overrides: Mapping[str, Any] | None = None,
    views: Sequence[View] = (),
    patch_voxels: Mapping[int, int] = PATCH_VOXELS,
    questions: Questions | None = None,
    volumes: NetworkSpec | None = None,
) -> DataSpec:
    """Decide how the data are presented to the network.

    Args:
        manifest: the data set.
        network: its width bounds the patch.
        memory_bytes: what training may use on the device.
        overrides: fields of `DataSpec` that are given instead of planned.
        views: of the stage. One is taken for the view; with several the patch has the length of each axis, of which
            each plane makes its own 1, and all views share one grid.
        patch_voxels: spatial dimensions of the network -> voxels of the largest patch.
        questions: that the methods ask of whole images; None: none.
        volumes: network of a later stage that learns volumes; where this one learns several planes, its patch is
            planned too.

    Raises:
        ConfigError: an override that `DataSpec` refuses, or views that do not go with it.
        DataError: an image that a view reduces to lines.
        ManifestError: a name that MONAI's tools would evaluate in the bundle.
    """
    given = dict(overrides or {})
    if given.get("has_background", manifest.has_background) != manifest.has_background:
        raise ConfigError(
            f"data.has_background is {given['has_background']}; accepted is false, for a set without a background",
            path=manifest.path,
            hint='or leave it out; "background": null in the manifest says the same',
        )
    regions = [region.model_dump(mode="json") for region in manifest.regions]
    if given.get("regions", regions) != regions:
        raise ConfigError("data.regions is given, and not that of the manifest, which says so", path=manifest.path)
    _refuse_expressions(manifest)
    fingerprint = read_fingerprint(manifest)
    check_views(views, fingerprint)
    spacing = _plan_spacing(fingerprint, views, given.get("spacing_mm"))
    view = _shared_view(views, given.get("view"))
    if view is None:
        view = choose_view(spacing, np.median(fingerprint.shape, axis=0))
    if view == "volume" and not views and not given.get("spacing_mm"):
        spacing = finer_across_slices(fingerprint, spacing)
    resample = [axis != slice_axis(view) for axis in range(3)]
    factors = np.where(resample, fingerprint.spacing_mm / spacing, 1.0)
    size = np.median(fingerprint.shape * factors, axis=0)
    volume_patch = None
    if len(views) > 1 and "volume" not in views:
        patch = plan_slices(size, spacing, _largest_patch_voxels(2, network.width, memory_bytes))
        if volumes is not None:
            most = min(patch_voxels[3], _largest_patch_voxels(3, volumes.width, memory_bytes))
            volume_patch = plan_patch(size, spacing, "volume", most=most)
    else:
        dims = 3 if view == "volume" else 2
        most = min(patch_voxels[dims], _largest_patch_voxels(dims, network.width, memory_bytes))
        patch = plan_patch(size, spacing, view, most=most)
    if given.get("volume_patch") is not None and volumes is None and "volume" not in views:
        raise ConfigError("data.volume_patch is given, and no stage has the view volume: accepted is data.patch")
    planned = {
        "labels": manifest.labels,
        "has_background": manifest.has_background,
        "regions": manifest.regions,
        "modality": manifest.modalities,
        "spacing_mm": tuple(spacing.tolist()),
        "view": view,
        "resample_axes": tuple(resample),
        "patch": patch,
        "volume_patch": volume_patch,
        "intensity": given.get("intensity") or intensity_rule(manifest, network),
        "padding": "edge",
        "native_mm": native_spacing(fingerprint, spacing),
        "smallest_mm": tuple((fingerprint.shape * fingerprint.spacing_mm).min(axis=0).round(1).tolist()),
    }
    augment = plan_augment(view, given.get("augment", {}), photographs=manifest.shows_colours, questions=questions)
    return check_data_spec({**planned, **given, "augment": augment})


def _plan_spacing(fingerprint: Fingerprint, views: Sequence[View], given: Sequence[float] | None) -> np.ndarray:
    """The given spacing, or the median one, at which several planes can vote."""
    spacing = np.array(given or np.median(fingerprint.spacing_mm, axis=0).round(4), dtype=float)
    if len(views) > 1:
        spacing = even_spacing(spacing, given=given is not None)
    return spacing


def finer_across_slices(fingerprint: Fingerprint, spacing_mm: np.ndarray) -> np.ndarray:
    """The spacing of volumes; across thick slices that of the thinner ones, so that few lose any (nnU-Net's rule).

    Args:
        fingerprint: of the images.
        spacing_mm: the median spacing.

    Returns:
        The same, but across slices that are more than `THICK_RATIO` times as thick as pixels and as few, the 10th
        percentile, though no finer than the pixels.
    """
    thick = int(np.argmax(spacing_mm))
    others = [axis for axis in range(3) if axis != thick]
    pixels = max(spacing_mm[axis] for axis in others)
    size = np.median(fingerprint.shape * fingerprint.spacing_mm / spacing_mm, axis=0)
    are_few = size[thick] * THICK_RATIO < min(size[axis] for axis in others)
    if spacing_mm[thick] <= THICK_RATIO * pixels or not are_few:
        return spacing_mm
    finer = spacing_mm.copy()
    finer[thick] = max(pixels, np.percentile(fingerprint.spacing_mm[:, thick], 10).round(4))
    return finer


def _refuse_expressions(manifest: Manifest) -> None:
    for name in (*manifest.labels.values(), *manifest.modalities):
        if begins_expression(name):
            raise ManifestError(
                f"has the name {name!r}: what begins with $, @ or % is no name to MONAI's tools, which read the bundle",
                path=manifest.path,
                hint="rename it",
            )


def check_data_spec(fields: Mapping[str, Any]) -> DataSpec:
    """A checked `DataSpec`.

    Raises:
        ConfigError: with the path of the field.
    """
    try:
        spec = DataSpec(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "extra_forbidden":
            raise ConfigError(unknown_key(DataSpec, first["loc"], ("data", *first["loc"]))) from error
        where = ".".join(str(part) for part in ("data", *first["loc"]))
        raise ConfigError(f"{where}: {first['msg']}, got {first['input']!r}") from error
    if 0 in spec.augment.flip_axes and spec.has_sides:
        raise ConfigError(
            "data.augment.flip.axes has 0, which makes left structures look like right ones, and both are labels",
            hint="leave 0 out",
        )
    return spec


def _shared_view(views: Sequence[View], given: View | None) -> View | None:
    """The view of the data as all networks of a stage share them; None: to be chosen."""
    shared: View | None = views[0] if views else None
    if len(views) > 1:
        shared = "volume"
    if shared and given and shared != given:
        raise ConfigError(f"data.view is {given}, the stage has the views {', '.join(views)}")
    return shared or given


def _largest_patch_voxels(dims: int, width: int, memory_bytes: float) -> float:
    """Voxels of the largest patch that fits into memory."""
    return memory_bytes / (BYTES_PER_VOXEL_AND_CHANNEL * width * BATCH_SIZE[dims])


def choose_view(spacing_mm: np.ndarray, shape: np.ndarray) -> View:
    """A plane for 2D images, single slices and short stacks of thick slices; else the volume."""
    thick = int(np.argmax(spacing_mm))
    ratio = spacing_mm[thick] / spacing_mm.min()
    if ratio >= THICK_RATIO and shape[thick] < FEW_SLICES:
        return PLANES[thick]
    flat = int(np.argmin(shape))
    return PLANES[flat] if shape[flat] < 8 else "volume"


def plan_patch(size: Sequence[float] | np.ndarray, spacing_mm: np.ndarray, view: View, *, most: float) -> Triple:
    """The patch: equally long along all axes in mm, no longer than the typical image.

    Args:
        size: typical image size in voxels of the target spacing.
        spacing_mm: target spacing.
        view: a plane makes the patch one voxel thick across it.
        most: voxels of the largest patch.
    """
    axes = [axis for axis in range(3) if axis != slice_axis(view)]
    low = 1.0
    high = float(max(size[axis] * spacing_mm[axis] for axis in axes))
    for _ in range(50):  # bisection: the longest side in mm whose patch has at most so many voxels
        middle = (low + high) / 2
        voxels = prod(min(size[axis], middle / spacing_mm[axis]) for axis in axes)
        if voxels <= most:
            low = middle
        else:
            high = middle
    patch = [1, 1, 1]
    for axis in axes:
        patch[axis] = max(8, fit_size(low / spacing_mm[axis], largest=size[axis]))
    return (patch[0], patch[1], patch[2])


def with_strides(network: NetworkSpec, data: DataSpec) -> NetworkSpec:
    """The network with strides for thick slices; as it is where they are not thick, or it takes no strides.

    Args:
        network: with no strides of the user's.
        data: planned.
    """
    options = {name: value for name, value in network.options.items() if name != "strides"}
    network = network.model_copy(update={"options": options})
    if data.view != "volume" or network.name not in STRIDED:
        return network
    usual = plan_strides(data.network_patch)
    wanted = plan_strides(data.network_patch, spacing_mm=data.spacing_mm)
    if wanted == usual or len(wanted) != len(usual):  # the number of levels is the network's own
        return network
    return network.model_copy(update={"options": {**options, "strides": wanted}})


def plan_batch(multiples: Mapping[str, int], sizes: Mapping[str, int], dims: int) -> dict[str, int]:
    """Batch size of each stream that has cases: a share of the usual batch, in 3D no more patches than cases.

    Args:
        multiples: stream -> what its batch size is a multiple of: the size of its groups, or 1.
        sizes: stream -> number of its cases.
        dims: 2 or 3.
    """
    present = [stream for stream in multiples if sizes.get(stream)]
    shares = sum(SHARES.get(stream, 1) for stream in present)
    batch = {}
    for stream in present:
        size = max(1, BATCH_SIZE[dims] * SHARES.get(stream, 1) // shares)
        if dims == 3:
            size = min(size, sizes[stream])
        multiple = multiples[stream]
        batch[stream] = max(multiple, size // multiple * multiple)
    return batch
