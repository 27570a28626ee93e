"""Absolute paths are left out of what is passed on: pages, tables and cards name files without their folders."""

from __future__ import annotations

import re

ABSOLUTE = re.compile(
    r"""(?<![\w.~/\\:-])          # at the beginning of a path: not behind a part of a relative one, or of an address
    (?:~|[A-Za-z]:)?[/\\]{1,2}    # home, a drive, or the root
    (?:[^/\\\s'"<>|,;:()\[\]{}]+[/\\]+)*  # folders
    (?=[^/\\\s'"<>|,;:()\[\]{}]+)  # and the name, which stays
    """,
    re.VERBOSE,
)
"""The folders of an absolute path without blanks, in the middle of any text."""

QUOTED = re.compile(r"""(['"])([\w.-]+=)?((?:~|[A-Za-z]:)?[/\\][^'"]*)\1""")
"""An absolute path, or a setting that is one, in quotation marks, between which may be blanks."""


def without_folders(text: str) -> str:
    """A text in which every absolute path is the name of its last part alone.

    Args:
        text: a command line, a message, a setting.

    Examples:
        >>> without_folders("medseg compare --data /home/anna/la/set.json -o runs/la")
        'medseg compare --data set.json -o runs/la'
        >>> without_folders("--set 'network.weights.file=/home/anna/w.pth'")
        "--set 'network.weights.file=w.pth'"
    """
    text = QUOTED.sub(_keep_last_part, text)
    return ABSOLUTE.sub("", text)


def _keep_last_part(found: re.Match[str]) -> str:
    quote, setting, path = found.groups(default="")
    return quote + setting + re.split(r"[/\\]", path.rstrip("/\\"))[-1] + quote
