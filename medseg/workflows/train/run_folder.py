"""The folder of a run: free, or holding the run to continue."""

from __future__ import annotations

from pathlib import Path

from medseg.engine import distributed
from medseg.errors import ConfigError, OutputError
from medseg.progress import say
from medseg.records import Record, read_record

RUN = "run.json"
"""Name of a run's record."""


def claim(output: Path, record: Record, *, resume: bool) -> None:
    """See that the folder is free, or holds the run to resume; a run that never took a step is started anew.

    Args:
        output: the folder.
        record: of the run that was asked for.
        resume: whether it was asked to go on with a run.

    Raises:
        OutputError: the folder cannot be used.
        ConfigError: it holds the run of another command; says in what that one differs.
    """
    if distributed.rank() == 0:
        file = record.file
        if output.exists() and not output.is_dir():
            raise OutputError("is a file; a run needs a folder", path=output)
        if not file.exists() and output.is_dir() and not all(_is_round(path) for path in output.iterdir()):
            raise OutputError("is not empty and holds no run", path=output, hint="choose another --output")
        begun = (output / "bundle").exists() or any(output.glob("**/last.pt"))
        if not file.exists() and resume:
            say(f"{output}: there is no run to continue; a new one begins")
        if file.exists() and not begun:
            # the record stays: without it a run that is stopped again would leave a folder that is taken for another's
            (output / "pipeline.yaml").unlink(missing_ok=True)
        elif file.exists() and not resume:
            raise OutputError("holds a run already", path=output, hint="--resume to continue it, or another --output")
        elif file.exists() and _recorded_key(file) != record.key:
            raise ConfigError(
                f"this run was started with another task, manifest, --method, --set or --budget: {record.difference()}",
                path=output,
                hint="resume with the same command, or choose another --output",
            )
    distributed.barrier()


def _is_round(path: Path) -> bool:
    """Whether this is a round of some run: what its records say is finished is taken, the rest is made again."""
    return path.is_dir() and path.name.startswith("round") and path.name.removeprefix("round").isdigit()


def _recorded_key(file: Path) -> str:
    """Key of the run that a folder holds; `fingerprint` is its name before version 0.2."""
    found = read_record(file)
    key = found.get("key", found.get("fingerprint"))
    if key is None:
        raise OutputError("is damaged", path=file, hint="start again in another folder")
    return str(key)
