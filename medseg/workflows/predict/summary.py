"""What `predict` says, on standard error: warnings while it works, and at its end what was done and what looks odd."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from rich.console import Console

from medseg.progress import on_one_line


class Listener(logging.Handler):
    """Passes warnings of the inferer on, one line each, and keeps them for the report."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self.console, self.lines = console, list[str]()

    def emit(self, record: logging.LogRecord) -> None:
        """Take one warning."""
        self.say(record.getMessage())

    def say(self, line: str) -> None:
        """Show and keep a warning."""
        self.lines.append(line)
        self.show(f"warning: {line}")

    def show(self, line: str) -> None:
        """Show a line above the bars."""
        self.console.print(on_one_line(line), markup=False, highlight=False, soft_wrap=True)


def closing(report: dict[str, Any], output: Path, name: str) -> list[str]:
    """What was done, where it is, and by name what failed or looks odd.

    Args:
        report: of all cases.
        output: folder of the results.
        name: file name of the report.
    """
    cases = report["cases"]
    count = {status: sum(case["status"] == status for case in cases) for status in ("done", "skipped")}
    lines = [f"{count['done']} predicted, {count['skipped']} already there, {len(report['failed'])} failed: {output}"]
    odd = {
        "failed": [failure["case"] for failure in report["failed"]],
        "nothing found in": [case["case"] for case in cases if not any(_sizes(case).values())],
        "implausible": [case["case"] for case in cases if case.get("implausible")],
        "warnings for": [case["case"] for case in cases if len(case["warnings"]) > ("implausible" in case)],
    }
    lines += [f"{words}: {', '.join(names)}" for words, names in odd.items() if names]
    if any(odd.values()):
        lines.append(f"why: {output / name}")
    return lines


def _sizes(case: dict[str, Any]) -> dict[str, float]:
    """Of each structure, in millilitres or pixels; of a case that was not predicted now something."""
    return case.get("volumes_ml") or case.get("pixels") or {"": 1}
