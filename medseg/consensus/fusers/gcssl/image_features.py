"""Low-level image features at single voxels: intensity, moments, entropy, gradient and curvature.

Windows are gathered only where a feature is wanted, a few ten thousand voxels whatever the size of the volume:
filtering the whole box takes several times as long. Lengths are in units of the smallest spacing, so that windows
are as wide in millimetres along every axis.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from medseg.consensus.boxes import Box, enlarge_box

SMALL, LARGE = 3, 7
"""Widths of the two windows."""
SIGMA = 1.5
"""Of the Gaussian under gradient and curvature."""
BINS = 8
"""Grey levels of the entropy."""
PER_CHANNEL = 12
"""Features of each channel."""
_CHUNK = 8192  # of points: the sums of a window stay in the cache
_MARGIN = 8.0
_QUANTILE_SAMPLE = 1 << 20
_TO_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)


class NormalisedImage:
    """The image around a box, normalised: `(x - median) / (p99 - p1)` for each channel.

    A 2D image of three channels becomes luminance and two chroma channels, which share the scale of the luminance.

    Args:
        image: `(C, X, Y, Z)` float32, the whole grid.
        box: where features will be wanted.
        units: spacing over the smallest, infinite along an axis of one voxel.
    """

    def __init__(self, image: np.ndarray, box: Box, units: Sequence[float]) -> None:
        self.units, self.box = tuple(units), box
        self.margin = tuple(_margin(unit) for unit in units)
        inside = enlarge_box(box, self.margin, image.shape[1:])
        crop = image[(slice(None), *inside)]
        colour = len(image) == 3 and image.shape[3] == 1
        crop = _luminance_chroma(crop) if colour else crop.astype(np.float32)
        median, scale = _median_and_scale(crop)
        self.constant = bool((scale == 0).all())
        if colour:
            scale = scale[:1]
        crop -= median
        crop /= np.where(scale > 0, scale, 1).astype(np.float32)
        # flat indices reach the neighbours of a voxel, whatever the order of the array that was given
        self.values = np.ascontiguousarray(_pad(crop, self._lacking(inside)))

    def smoothed(self, sigma: float) -> np.ndarray:
        """`(C, x, y, z)` of the box, Gaussian filtered; `sigma` in units of the smallest spacing."""
        inner = []
        for margin, length in zip(self.margin, self.values.shape[1:], strict=True):
            inner.append(slice(margin, length - margin))
        widths = [sigma / unit for unit in self.units]
        filtered = [ndimage.gaussian_filter(channel, widths) for channel in self.values]
        return np.stack([channel[tuple(inner)] for channel in filtered])

    def positions(self, voxels: np.ndarray) -> np.ndarray:
        """Flat indices in the padded values of flat indices in the box."""
        size = [side.stop - side.start for side in self.box]
        moved = []
        for position, margin in zip(np.unravel_index(voxels, size), self.margin, strict=True):
            moved.append(position + margin)
        return np.ravel_multi_index(tuple(moved), self.values.shape[1:])

    def _lacking(self, inside: Box) -> list[tuple[int, int]]:
        """How many voxels of the margin lie beyond the grid, before and after the box along each axis."""
        lacking = []
        for margin, side, wide in zip(self.margin, self.box, inside, strict=True):
            before, after = side.start - wide.start, wide.stop - side.stop
            lacking.append((margin - before, margin - after))
        return lacking


class ImageFeatures:
    """Features of a normalised image; prepare once, then ask for voxels."""

    def __init__(self, image: NormalisedImage) -> None:
        self.image = image
        self.strides = [stride // image.values.itemsize for stride in image.values.strides[1:]]
        self.window, self.small_window_size = _window(image.units, self.strides)
        widths = [SIGMA / unit for unit in image.units]
        self.smooth = [ndimage.gaussian_filter(channel, widths).reshape(-1) for channel in image.values]
        self.bins = [_grey_levels(channel).reshape(-1) for channel in image.values]
        shares = np.arange(len(self.window) + 1) / len(self.window)
        self.entropy_terms = -(shares * np.log2(np.maximum(shares, 1e-12))).astype(np.float32)

    def at(self, voxels: np.ndarray) -> np.ndarray:
        """`(n, 12 C)` float32 features at flat indices of the box.

        Per channel: intensity; mean, standard deviation, skewness and excess kurtosis in windows of 3 and of 7;
        entropy of 8 grey levels in the window of 7; gradient magnitude and curvature of the isosurface at sigma 1.5.
        """
        channels = len(self.smooth)
        found = np.empty((voxels.size, PER_CHANNEL * channels), np.float32)
        in_order = np.argsort(voxels, kind="stable")  # neighbours in memory are read one after another
        for start in range(0, voxels.size, _CHUNK):
            part = in_order[start : start + _CHUNK]
            positions = self.image.positions(voxels[part])
            for c in range(channels):
                features = [*self._texture(c, positions), *self._shape(c, positions)]
                first = c * PER_CHANNEL
                found[part, first : first + PER_CHANNEL] = np.stack(features, axis=1)
        return found

    def _texture(self, c: int, positions: np.ndarray) -> list[np.ndarray]:
        """Intensity, the moments of both windows, and the entropy."""
        values = self.image.values[c].reshape(-1)
        bins = self.bins[c]
        centre = values[positions]
        sums = [np.zeros(positions.size, np.float32) for _ in range(4)]
        # eight counters of a byte each in one integer; each half of the window counts less than 256
        first_bits = np.uint64(8) * np.arange(BINS, dtype=np.uint64)
        ones = np.uint64(1) << first_bits
        counters = [np.zeros(positions.size, np.uint64) for _ in range(2)]
        moments_of_small: list[np.ndarray] = []
        neighbours, difference = np.empty_like(positions), np.empty_like(centre)
        for k, jump in enumerate(self.window):
            np.add(positions, jump, out=neighbours)
            np.take(values, neighbours, out=difference, mode="clip")  # all lie inside: "clip" spares the check
            difference -= centre  # from the centre: raw powers would cancel in float32
            power = difference.copy()
            sums[0] += power
            for total in sums[1:]:
                power *= difference
                total += power
            half = 2 * k // len(self.window)
            grey_levels = np.take(bins, neighbours, mode="clip")
            counters[half] += np.take(ones, grey_levels, mode="clip")
            if k + 1 == self.small_window_size:
                moments_of_small = _moments(sums, self.small_window_size, centre)
        moments_of_large = _moments(sums, len(self.window), centre)
        counts = _unpack_bytes(counters[0]) + _unpack_bytes(counters[1])
        entropy = self.entropy_terms[counts].sum(axis=1)
        return [centre, *moments_of_small, *moments_of_large, entropy]

    def _shape(self, c: int, positions: np.ndarray) -> list[np.ndarray]:
        """Gradient magnitude, and the divergence of the normalised gradient."""
        axes = [(axis, unit) for axis, unit in enumerate(self.image.units) if math.isfinite(unit)]
        magnitude = _length(self._gradient(c, positions), positions.size)
        curvature = np.zeros(positions.size, np.float32)
        for number, (axis, unit) in enumerate(axes):
            for sign in (1, -1):
                gradient = self._gradient(c, positions + sign * self.strides[axis])
                length = _length(gradient, positions.size) + np.float32(1e-3)
                normalised = gradient[number] / length
                curvature += normalised * np.float32(sign / (2 * unit))
        return [magnitude, np.clip(curvature, -3, 3)]

    def _gradient(self, c: int, positions: np.ndarray) -> list[np.ndarray]:
        """Central differences of the smoothed channel, along the axes that are not flat."""
        smooth = self.smooth[c]
        gradient = []
        for stride, unit in zip(self.strides, self.image.units, strict=True):
            if math.isfinite(unit):
                difference = smooth[positions + stride] - smooth[positions - stride]
                gradient.append(difference * np.float32(0.5 / unit))
        return gradient


def _margin(unit: float) -> int:
    """Voxels that the image is needed beyond the box; none along an axis of one voxel."""
    if not math.isfinite(unit):
        return 0
    return max(2, math.ceil(_MARGIN / unit))


def _luminance_chroma(rgb: np.ndarray) -> np.ndarray:
    red, _, blue = rgb
    luminance = np.tensordot(_TO_LUMINANCE, rgb, axes=1)
    return np.stack([luminance, 0.564 * (blue - luminance), 0.713 * (red - luminance)]).astype(np.float32)


def _median_and_scale(channels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median and width of each channel, to subtract and divide by; width 0 if it is constant."""
    samples = [_sample(channel) for channel in channels]
    percentiles = [np.percentile(sample, (1, 50, 99)) for sample in samples]
    low, median, high = np.array(percentiles).T
    whole_range = np.array([np.ptp(sample) for sample in samples])
    scale = np.where(high > low, high - low, whole_range)
    shape = (-1, 1, 1, 1)
    return median.astype(np.float32).reshape(shape), scale.reshape(shape)


def _sample(channel: np.ndarray) -> np.ndarray:
    """Voxels enough for a quantile, evenly taken."""
    flat = channel.reshape(-1)
    return flat[:: math.ceil(flat.size / _QUANTILE_SAMPLE)]


def _pad(channels: np.ndarray, lacking: list[tuple[int, int]]) -> np.ndarray:
    """The channels, continued by their border voxels."""
    if not np.any(lacking):
        return channels
    return np.pad(channels, [(0, 0), *lacking], mode="edge")


def _window(units: Sequence[float], strides: Sequence[int]) -> tuple[list[int], int]:
    """Jumps to all voxels of the large window, those of the small one first, and how many these are."""
    large = [_half_width(LARGE, unit) for unit in units]
    small = [_half_width(SMALL, unit) for unit in units]
    steps = [range(-half, half + 1) for half in large]
    offsets = list(itertools.product(*steps))
    offsets.sort(key=lambda offset: not _is_within(offset, small))
    jumps = []
    for offset in offsets:
        jumps.append(sum(step * stride for step, stride in zip(offset, strides, strict=True)))
    return jumps, math.prod(2 * half + 1 for half in small)


def _half_width(size: int, unit: float) -> int:
    """Half of the odd width nearest to size / unit, which is at least 1."""
    return int(size / unit) // 2


def _is_within(offset: Sequence[int], half_widths: Sequence[int]) -> bool:
    return all(abs(step) <= half for step, half in zip(offset, half_widths, strict=True))


def _grey_levels(channel: np.ndarray) -> np.ndarray:
    """Each voxel's bin of eight equally filled ones, uint8."""
    levels = np.quantile(_sample(channel), np.arange(1, BINS) / BINS)
    bins = np.zeros(channel.shape, np.uint8)
    for level in levels.astype(np.float32):
        bins += channel > level
    return bins


def _moments(sums: Sequence[np.ndarray], count: int, centre: np.ndarray) -> list[np.ndarray]:
    """Mean, standard deviation, skewness and excess kurtosis from sums of powers of the difference to the centre."""
    m1, m2, m3, m4 = (total / np.float32(count) for total in sums)
    square = m1 * m1
    variance = np.maximum(m2 - square, np.float32(1e-8))
    deviation = np.sqrt(variance)
    third = m3 - 3 * m1 * m2 + 2 * m1 * square
    fourth = m4 - 4 * m1 * m3 + 6 * square * m2 - 3 * square * square
    skewness = np.clip(third / (variance * deviation), -10, 10)
    kurtosis = np.clip(fourth / (variance * variance) - 3, -10, 30)
    return [centre + m1, deviation, skewness, kurtosis]


def _unpack_bytes(counter: np.ndarray) -> np.ndarray:
    """`(n, 8)` the counts that the bytes of each integer hold."""
    return counter.astype("<u8").view(np.uint8).reshape(-1, BINS).astype(np.intp)


def _length(gradient: Sequence[np.ndarray], points: int) -> np.ndarray:
    """`(n,)` float32; 0 where no axis has a gradient."""
    total = np.zeros(points, np.float32)
    for component in gradient:
        total += component * component
    return np.sqrt(total)
