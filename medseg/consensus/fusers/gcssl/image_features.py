"""Low-level image features at single voxels: intensity, moments, entropy, gradient and curvature.

Windows are gathered only where a feature is asked for, a few ten thousand voxels whatever the size of the volume:
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
SIGMA = 1.5
BINS = 8
PER_CHANNEL = 12
_CHUNK = 16384  # of points: the sums of a window stay in the cache
_MARGIN = 8.0
_QUANTILE_SAMPLE = 1 << 20
_TO_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)


class Canvas:
    """The image round a box, normalised: `(x - median) / (p99 - p1)` for each channel.

    A picture of three channels becomes luminance and two chroma channels, which share the scale of the luminance.

    Args:
        image: `(C, X, Y, Z)` float32, the whole grid.
        box: where features will be asked for.
        units: spacing over the smallest, infinite along an axis of one voxel.
    """

    def __init__(self, image: np.ndarray, box: Box, units: Sequence[float]) -> None:
        self.units, self.box = tuple(units), box
        self.margin = tuple(max(2, math.ceil(_MARGIN / unit)) if math.isfinite(unit) else 0 for unit in units)
        inside = enlarge_box(box, self.margin, image.shape[1:])
        crop = image[(slice(None), *inside)]
        colour = len(image) == 3 and image.shape[3] == 1
        crop = _luminance_chroma(crop) if colour else crop.astype(np.float32)
        middle, scale = _robust(crop)
        self.constant = bool((scale == 0).all())
        scale = scale[:1] if colour else scale
        crop -= middle
        crop /= np.where(scale > 0, scale, 1).astype(np.float32)
        lacking = [
            (m - (b.start - i.start), m - (i.stop - b.stop)) for m, b, i in zip(self.margin, box, inside, strict=True)
        ]
        self.values = np.pad(crop, [(0, 0), *lacking], mode="edge") if np.any(lacking) else crop

    def smoothed(self, sigma: float) -> np.ndarray:
        """`(C, x, y, z)` of the box, Gaussian filtered; `sigma` in units of the smallest spacing."""
        inner = tuple(slice(m, n - m) for m, n in zip(self.margin, self.values.shape[1:], strict=True))
        widths = [sigma / unit for unit in self.units]
        return np.stack([ndimage.gaussian_filter(channel, widths)[inner] for channel in self.values])

    def positions(self, voxels: np.ndarray) -> np.ndarray:
        """Flat indices in the padded values of flat indices in the box."""
        size = [b.stop - b.start for b in self.box]
        at = np.unravel_index(voxels, size)
        moved = tuple(a + m for a, m in zip(at, self.margin, strict=True))
        return np.ravel_multi_index(moved, self.values.shape[1:])


class Features:
    """Features of a canvas; prepare once, then ask for voxels."""

    def __init__(self, canvas: Canvas) -> None:
        self.canvas = canvas
        self.strides = [s // canvas.values.itemsize for s in canvas.values.strides[1:]]
        self.window, self.inner = _window(canvas.units, self.strides)
        widths = [SIGMA / unit for unit in canvas.units]
        self.smooth = [ndimage.gaussian_filter(channel, widths).reshape(-1) for channel in canvas.values]
        self.bins = [_quantised(channel).reshape(-1) for channel in canvas.values]
        terms = np.arange(len(self.window) + 1) / len(self.window)
        self.plogp = -(terms * np.log2(np.maximum(terms, 1e-12))).astype(np.float32)

    def at(self, voxels: np.ndarray) -> np.ndarray:
        """`(n, 12 C)` float32 features at flat indices of the box.

        Per channel: intensity; mean, standard deviation, skewness and excess kurtosis in windows of 3 and of 7;
        entropy of 8 grey levels in the window of 7; gradient magnitude and curvature of the isosurface at sigma 1.5.
        """
        found = np.empty((voxels.size, PER_CHANNEL * len(self.smooth)), np.float32)
        for start in range(0, voxels.size, _CHUNK):
            part = slice(start, start + _CHUNK)
            at = self.canvas.positions(voxels[part])
            for c in range(len(self.smooth)):
                columns = self._texture(c, at) + self._shape(c, at)
                found[part, c * PER_CHANNEL : (c + 1) * PER_CHANNEL] = np.stack(columns, axis=1)
        return found

    def _texture(self, c: int, at: np.ndarray) -> list[np.ndarray]:
        values, bins = self.canvas.values[c].reshape(-1), self.bins[c]
        centre = values[at]
        sums = [np.zeros(at.size, np.float32) for _ in range(4)]
        # eight counters of a byte each in one integer; each half of the window counts less than 256
        ones = np.uint64(1) << (np.uint64(8) * np.arange(BINS, dtype=np.uint64))
        counters = [np.zeros(at.size, np.uint64) for _ in range(2)]
        small: list[np.ndarray] = []
        for k, jump in enumerate(self.window):
            there = at + jump
            step = values[there] - centre  # from the centre: raw powers would cancel in float32
            power = step
            for total in sums:
                total += power
                power = power * step
            counters[2 * k // len(self.window)] += ones[bins[there]]
            if k + 1 == self.inner:
                small = _moments(sums, self.inner, centre)
        counts = sum(counter.astype("<u8").view(np.uint8).reshape(-1, BINS).astype(np.intp) for counter in counters)
        entropy = self.plogp[counts].sum(axis=1)
        return [centre, *small, *_moments(sums, len(self.window), centre), entropy]

    def _shape(self, c: int, at: np.ndarray) -> list[np.ndarray]:
        axes = [(axis, unit) for axis, unit in enumerate(self.canvas.units) if math.isfinite(unit)]
        magnitude = np.sqrt(sum(g * g for g in self._gradient(c, at)) + np.zeros(at.size, np.float32))
        curvature = np.zeros(at.size, np.float32)
        for number, (axis, unit) in enumerate(axes):
            for sign in (1, -1):
                gradient = self._gradient(c, at + sign * self.strides[axis])
                length = np.sqrt(sum(g * g for g in gradient)) + np.float32(1e-3)
                curvature += gradient[number] / length * np.float32(sign / (2 * unit))
        return [magnitude, np.clip(curvature, -3, 3)]

    def _gradient(self, c: int, at: np.ndarray) -> list[np.ndarray]:
        """Central differences of the smoothed channel, along the axes that are not flat."""
        smooth, steps = self.smooth[c], zip(self.strides, self.canvas.units, strict=True)
        return [(smooth[at + s] - smooth[at - s]) * np.float32(0.5 / u) for s, u in steps if math.isfinite(u)]


def _window(units: Sequence[float], strides: Sequence[int]) -> tuple[list[int], int]:
    """Jumps to all voxels of the large window, those of the small one first, and how many these are."""

    def half(size: int, unit: float) -> int:
        return int(size / unit) // 2  # the odd width nearest to size / unit, at least 1

    reach = [half(LARGE, unit) for unit in units]
    near = [half(SMALL, unit) for unit in units]
    steps = list(itertools.product(*(range(-r, r + 1) for r in reach)))
    steps.sort(key=lambda step: any(abs(s) > n for s, n in zip(step, near, strict=True)))
    inner = math.prod(2 * n + 1 for n in near)
    return [sum(s * stride for s, stride in zip(step, strides, strict=True)) for step in steps], inner


def _moments(sums: Sequence[np.ndarray], count: int, centre: np.ndarray) -> list[np.ndarray]:
    """Mean, standard deviation, skewness and excess kurtosis from sums of powers of the difference to the centre."""
    m1, m2, m3, m4 = (total / np.float32(count) for total in sums)
    square = m1 * m1
    variance = np.maximum(m2 - square, np.float32(1e-8))
    deviation = np.sqrt(variance)
    third = m3 - 3 * m1 * m2 + 2 * m1 * square
    fourth = m4 - 4 * m1 * m3 + 6 * square * m2 - 3 * square * square
    skewness = np.clip(third / (variance * deviation), -10, 10)
    return [centre + m1, deviation, skewness, np.clip(fourth / (variance * variance) - 3, -10, 30)]


def _quantised(channel: np.ndarray) -> np.ndarray:
    """Each voxel's bin of eight equally filled ones, uint8."""
    levels = np.quantile(_sample(channel), np.arange(1, BINS) / BINS)
    bins = np.zeros(channel.shape, np.uint8)
    for level in levels.astype(np.float32):
        bins += channel > level
    return bins


def _robust(channels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median and width of each channel, to subtract and divide by; width 0 if it is constant."""
    samples = [_sample(channel) for channel in channels]
    low, middle, high = np.array([np.percentile(sample, (1, 50, 99)) for sample in samples]).T
    widest = np.array([np.ptp(sample) for sample in samples])
    shape = (-1, 1, 1, 1)
    return middle.astype(np.float32).reshape(shape), np.where(high > low, high - low, widest).reshape(shape)


def _sample(channel: np.ndarray) -> np.ndarray:
    """Voxels enough for a quantile, evenly taken."""
    flat = channel.reshape(-1)
    return flat[:: math.ceil(flat.size / _QUANTILE_SAMPLE)]


def _luminance_chroma(rgb: np.ndarray) -> np.ndarray:
    red, _, blue = rgb
    luminance = np.tensordot(_TO_LUMINANCE, rgb, axes=1)
    return np.stack([luminance, 0.564 * (blue - luminance), 0.713 * (red - luminance)]).astype(np.float32)
