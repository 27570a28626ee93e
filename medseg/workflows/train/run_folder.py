"""The folder of a run: free, or holding the run to continue."""

from __future__ import annotations

import json
from pathlib import Path

from medseg.engine import distributed
from medseg.errors import ConfigError, OutputError
from medseg.progress import say

RECORD = "run.json"


def claim(output: Path, *, resume: bool, fingerprint: str) -> None:
    """See that the folder is free, or holds the run to resume; a run that never took a step is started anew."""
    if distributed.rank() == 0:
        record = output / RECORD
        if output.exists() and not output.is_dir():
            raise OutputError("is a file; a run needs a folder", path=output)
        if not record.exists() and output.is_dir() and not all(_is_round(path) for path in output.iterdir()):
            raise OutputError("is not empty and holds no run", path=output, hint="choose another --output")
        begun = (output / "bundle").exists() or any(output.glob("**/last.pt"))
        if not record.exists() and resume:
            say(f"{output}: there is no run to continue; a new one begins")
        if record.exists() and not begun:
            # the record stays: without it a run that is stopped again would leave a folder that is taken for another's
            (output / "pipeline.yaml").unlink(missing_ok=True)
        elif record.exists() and not resume:
            raise OutputError("holds a run already", path=output, hint="--resume to continue it, or another --output")
        elif record.exists() and _recorded(record) != fingerprint:
            raise ConfigError(
                "this run was started with another task, manifest, --method, --set or --budget",
                path=output,
                hint="resume with the same command, or choose another --output",
            )
    distributed.barrier()


def _is_round(path: Path) -> bool:
    """Whether this is a round of some run: its pieces are taken where they are the same and made again where not."""
    return path.is_dir() and path.name.startswith("round") and path.name.removeprefix("round").isdigit()


def _recorded(record: Path) -> str:
    try:
        return str(json.loads(record.read_text(encoding="utf-8"))["fingerprint"])
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError("is damaged", path=record, hint="start again in another folder") from error
