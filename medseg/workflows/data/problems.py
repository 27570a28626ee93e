"""What a check found: for people as text, for programs as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong (error) or deserves a look (warning).

    Attributes:
        case: name of the case; empty when the whole set is meant.
        file: as it is called in the manifest; empty when no single file is meant.
        section: list of the manifest.
        severity: an error must be mended before the data are used.
        code: one word for programs.
        message: what was found, and what is accepted.
    """

    case: str
    file: str
    section: str
    severity: Severity
    code: str
    message: str


@dataclass(frozen=True)
class CheckReport:
    """Everything that was found in one manifest.

    Attributes:
        manifest: the file that was checked.
        cases: how many cases were looked at.
        files: how many files were opened.
        headers_only: whether the voxels were left unread.
        problems: in the order of the manifest, those of the whole set last.
        learnable: `labeled`, `weak` (tags only) and `unlabeled` -> how many cases training could use as such.
    """

    manifest: Path
    cases: int
    files: int
    headers_only: bool
    problems: tuple[Problem, ...]
    learnable: Mapping[str, int]

    @property
    def ok(self) -> bool:
        """No error; there may be warnings."""
        return not self._count("error")

    def _count(self, severity: Severity) -> int:
        return sum(p.severity == severity for p in self.problems)

    def to_text(self) -> str:
        """One line per problem, then the sum."""
        lines = []
        for p in self.problems:
            where = " ".join(part for part in (p.section, p.case) if part)
            what = ": ".join(part for part in (p.file, p.message) if part)
            lines.append(f"{p.severity:<8}{where + ': ' if where else ''}{what} [{p.code}]")
        errors, warnings = self._count("error"), self._count("warning")
        read = "headers only" if self.headers_only else "every voxel read"
        found = f"{_plural(errors, 'error')}, {_plural(warnings, 'warning')}"
        lines.append(f"to learn from: {self._describe_learnable()}")
        lines.append(f"{self.manifest}: {_plural(self.cases, 'case')}, {_plural(self.files, 'file')} ({read}): {found}")
        return "\n".join(lines)

    def _describe_learnable(self) -> str:
        words = {"labeled": "labelled", "weak": "with tags only", "unlabeled": "unlabelled"}
        return ", ".join(f"{self.learnable[stream]} {word}" for stream, word in words.items())

    def to_json(self) -> str:
        """The same as strict JSON."""
        content = {
            "manifest": str(self.manifest),
            "ok": self.ok,
            "cases": self.cases,
            "files": self.files,
            "headers_only": self.headers_only,
            "errors": self._count("error"),
            "warnings": self._count("warning"),
            "learnable": dict(self.learnable),
            "codes": dict(sorted(Counter(p.code for p in self.problems).items())),
            "problems": [asdict(p) for p in self.problems],
        }
        return json.dumps(content, indent=1, allow_nan=False)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("s" if count != 1 else "")
