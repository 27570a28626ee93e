"""2D images (PNG, JPEG, TIFF) through Pillow: colours are channels, the grid is (X, Y, 1) with unit spacing."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from .header import Header, VolumeError, check_memory
from .png import check_png

PLAIN = {"1": np.uint8, "L": np.uint8, "P": np.uint8, "I;16": np.uint16, "I": np.int32, "F": np.float32}
"""Pillow's names of one number per pixel; of a palette image these are its indices, as masks use it."""

CHANNELS = {"RGB": 3, "LA": 1, "RGBA": 3}
"""Modes with several numbers per pixel, and how many of them are colours."""


def read(path: Path, *, voxels: bool, indices: bool = False) -> tuple[np.ndarray | None, Header]:
    """Read a PNG, JPEG or TIFF file.

    Args:
        path: the file.
        voxels: False stops after the header.
        indices: of an image with a palette, read which entry each pixel has, as label maps mean it, and not its colour.

    Returns:
        array `(C, X, Y, 1)` (None without voxels), and the header with an identity affine.

    Raises:
        VolumeError: for damage, for several pages, for transparency, for colours that Pillow would change.
    """
    try:
        from PIL import Image
    except ImportError as e:
        raise VolumeError("is a 2D image and needs Pillow", hint="pip install pillow") from e
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if voxels and image.format == "PNG":
                    check_png(path)
                shown = image if indices or image.mode != "P" else _in_colour(image)
                header = _header(shown, image, path)
                pixels = _pixels(shown) if voxels else None
                return pixels, header
    except (VolumeError, MemoryError):
        raise
    except Exception as e:  # Pillow's decoders raise whatever comes to hand for a damaged file
        reason = str(e).replace(str(path), path.name)
        raise VolumeError(f"is no readable 2D image: {reason}", hint="copy it again, or convert it to PNG") from e


def _in_colour(image: Any) -> Any:
    """An image with a palette as the colours that it shows, or as grey if they all are."""
    colours = image.convert("RGBA")
    if colours.getextrema()[3] != (255, 255):
        raise VolumeError("is partly transparent", hint="flatten it first")
    red, green, blue, _ = colours.split()
    is_grey = red.tobytes() == green.tobytes() == blue.tobytes()
    return red if is_grey else colours.convert("RGB")


def _header(image: Any, stored: Any, path: Path) -> Header:
    mode = "I;16" if image.mode.startswith("I;16") else image.mode
    if mode not in PLAIN and mode not in CHANNELS:
        raise VolumeError(f"has the colour mode {mode}; accepted are grey, RGB and palette", hint="convert it")
    if getattr(stored, "n_frames", 1) > 1:
        raise VolumeError(f"has {stored.n_frames} pages", hint="save each page, or the stack as .nii.gz")
    _refuse_deep_colour(stored, path)
    notes = []
    if stored.getexif().get(0x0112, 1) != 1:
        notes.append("it has an EXIF rotation: the pixels are read as stored")
    dtype = np.dtype(PLAIN.get(mode, np.uint8))
    channels = CHANNELS.get(mode, 1)
    check_memory(image.width * image.height * max(channels, 4) * dtype.itemsize)
    shape = (image.width, image.height, 1)
    return Header(path, shape, channels, np.eye(4), (1.0, 1.0, 1.0), dtype, tuple(notes))


def _refuse_deep_colour(image: Any, path: Path) -> None:
    """Pillow cuts PNG colours of 16 bits down to 8 without a word."""
    if image.format != "PNG" or image.mode not in CHANNELS:
        return
    with path.open("rb") as file:
        depth = file.read(25)[24]
    if depth > 8:
        raise VolumeError(f"has colours of {depth} bits; accepted is 8", hint="save the channels as .nii.gz")


def _pixels(image: Any) -> np.ndarray:
    image.load()
    pixels = np.asarray(image)
    if image.mode in CHANNELS:
        colours = CHANNELS[image.mode]
        if pixels.shape[2] > colours and (pixels[..., colours:] != 255).any():
            raise VolumeError("is partly transparent", hint="flatten it first")
        pixels = pixels[..., :colours]
    else:
        pixels = pixels[..., None]
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8)
    native = pixels.astype(pixels.dtype.newbyteorder("="))  # also a copy that may be written to
    return native.transpose(2, 1, 0)[..., None]
