"""Errors a user can do something about.

    MedsegError
    ├── ManifestError     a manifest that does not parse or contradicts itself
    ├── DataError         an image or label file that cannot be used; readers raise its `VolumeError`
    │   └── FormatError   labels that a file format cannot hold, so that another one has to
    ├── ConfigError       a pipeline, an option or a `--set` that is not understood
    ├── BundleError       a folder that is no usable bundle, or one with foreign code
    ├── CheckpointError   a checkpoint that is damaged or belongs to something else
    └── OutputError       a place where nothing can be written; writers of images raise its `SaveError`

Each prints as one line, `PATH: what is wrong; what to do`, and ends a command with exit code 2. It is made where the
fault is found, and caught again only by those who do something else with it: name the case and go on with the next.
"""

from __future__ import annotations

from medseg.portable.errors import DataError, MedsegError, OutputError

__all__ = [
    "BundleError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "FormatError",
    "ManifestError",
    "MedsegError",
    "OutputError",
]


class ManifestError(MedsegError):
    """A manifest that does not parse or contradicts itself."""


class ConfigError(MedsegError):
    """A pipeline, an option or a `--set` that is not understood."""


class FormatError(DataError):
    """Labels that a file format cannot hold, so that another one has to."""


class BundleError(MedsegError):
    """A folder that is no usable bundle, or one that wants to run code of its own."""


class CheckpointError(MedsegError):
    """A checkpoint that is damaged or belongs to another run."""
