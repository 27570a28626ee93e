"""Files of `torch.save` as they are read everywhere: whole, with their checksums, and nothing in them is executed."""

from __future__ import annotations

import hashlib
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

CODE = ("Unsupported global", "Unsupported class", "TorchScript", "REDUCE", "BUILD", "GLOBAL", "NEWOBJ", "instance")
"""Words of torch where a file holds more than tensors and plain values."""


class UnreadableWeights(Exception):  # noqa: N818 - who opens a file raises the error of what it is to be
    """A file that cannot be used; the message says what it is, as "it is empty"."""


def sha256_of(path: Path) -> str:
    """SHA-256 of a file of weights.

    Raises:
        UnreadableWeights: it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UnreadableWeights(f"it cannot be read: {error.strerror or error}") from error


def load_tensors(path: Path) -> Any:
    """What a file holds: tensors and plain values, on the CPU.

    `torch.load` passes over the checksums that `torch.save` writes, so that flipped bytes would become other weights.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableWeights: it is empty, cut off or changed, is no file of weights, or holds code.
    """
    try:
        if path.stat().st_size == 0:
            raise UnreadableWeights("it is empty")
        if zipfile.is_zipfile(path):
            _check_sums(path)
        with warnings.catch_warnings():  # of torch, on forms of files that it then refuses
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except UnreadableWeights:
        raise
    except OSError as error:
        raise UnreadableWeights(f"it cannot be read: {error.strerror or error}") from error
    except Exception as error:  # whatever the unpickler meets in a foreign file
        raise UnreadableWeights(_reason(error)) from error


def _check_sums(path: Path) -> None:
    """See that every part of an archive has the content that it was written with."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise UnreadableWeights("it is damaged") from error
    if damaged is not None:
        raise UnreadableWeights(f"it is damaged: the checksum of its part {damaged} is another")


def _reason(error: Exception) -> str:
    text = str(error)
    if any(word in text for word in CODE):
        return "it holds code, which medseg does not run, and not weights alone"
    return f"it is damaged, or no file of weights: {type(error).__name__}"
