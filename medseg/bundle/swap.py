"""A new folder of a bundle in the place of an older one."""

from __future__ import annotations

import shutil
from pathlib import Path

from medseg.portable.io.write import temporary_name


def swap_folder(new: Path, target: Path) -> None:
    """Put a folder where there may be an older one, which is removed only when the new one is there.

    Killed between its two renames it leaves no folder of that name: a training that is resumed makes the bundle again.

    Args:
        new: the folder, on the same disk; it has another name afterwards.
        target: its name.

    Raises:
        OSError: it cannot be done; what was there before is there again.
    """
    aside = temporary_name(target, "old")
    shutil.rmtree(aside, ignore_errors=True)
    is_there = target.exists()
    if is_there:
        target.replace(aside)
    try:
        new.replace(target)
    except OSError:
        if is_there:
            aside.replace(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)
