"""Results as they come: rows in a JSON-lines file and the same rows as Markdown tables, both whole at any moment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MACHINE = "machine"
NOTES = "notes"


class Journal:
    """The rows of one part. Only one process writes at a time.

    Args:
        folder: gets `PART.jsonl` and `PART.md`.
        part: name of the files.
    """

    def __init__(self, folder: Path, part: str) -> None:
        self.part, self.rows_file, self.tables_file = part, folder / f"{part}.jsonl", folder / f"{part}.md"

    def start(self, machine: dict[str, Any]) -> None:
        """Begin anew: what an earlier call wrote is replaced."""
        self.rows_file.parent.mkdir(parents=True, exist_ok=True)
        self._write([{"table": MACHINE, **machine}])

    def rows(self, table: str | None = None) -> list[dict[str, Any]]:
        """All rows, or those of one table; none where there is no file."""
        if not self.rows_file.exists():
            return []
        found = [json.loads(line) for line in self.rows_file.read_text(encoding="utf-8").splitlines()]
        return [row for row in found if table in (None, row["table"])]

    def add(self, table: str, **values: Any) -> None:
        """Write one row, and say it; a number is rounded only where it is shown."""
        self._write([*self.rows(), {"table": table, **values}])
        said = ", ".join(f"{key} {shown(value)}" for key, value in values.items())
        print(f"{table}: {said}", flush=True)

    def note(self, step: str, text: str) -> None:
        """Write what a table does not hold, such as why a step failed."""
        self.add(NOTES, step=step, note=text)

    def markdown(self) -> str:
        """The tables so far."""
        rows = self.rows()
        parts = [f"# {self.part}\n"]
        for table in dict.fromkeys(row["table"] for row in rows):
            mine = [row for row in rows if row["table"] == table]
            body = "".join(map(list_of, mine)) if table == MACHINE else table_of(mine)
            parts.append(f"## {table}\n\n{body}")
        return "\n".join(parts)

    def _write(self, rows: list[dict[str, Any]]) -> None:
        replace(self.rows_file, "".join(json.dumps(row) + "\n" for row in rows))
        replace(self.tables_file, self.markdown())


def replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def list_of(row: dict[str, Any]) -> str:
    """One row as a list."""
    return "".join(f"- {key}: {shown(value)}\n" for key, value in row.items() if key != "table")


def table_of(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table; a value that a row lacks is an empty cell."""
    keys = list(dict.fromkeys(key for row in rows for key in row if key != "table"))
    lines = [f"| {' | '.join(keys)} |", "|---" * len(keys) + "|"]
    for row in rows:
        lines.append(f"| {' | '.join(shown(row.get(key)) for key in keys)} |")
    return "\n".join(lines) + "\n"


def shown(value: Any) -> str:
    """A value for people."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("|", "/")
