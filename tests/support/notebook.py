"""Runs the cells of a notebook one after the other, without Jupyter: `python notebook.py FILE.ipynb`, in its folder.

Of what Jupyter adds to Python only `!COMMAND` is known, which fails here if the command does.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def cells_of(notebook: Path) -> list[dict[str, Any]]:
    """All cells, of text and of code."""
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def run_cell(text: str, names: dict[str, Any]) -> Any:
    """Execute a cell of code; returns the value of its last line, as Jupyter shows it."""
    if text.startswith("!"):
        subprocess.run(text[1:], shell=True, check=True)
        return None
    tree = ast.parse(text)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    if last is None:
        return None
    assert isinstance(last, ast.Expr)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names)


def main(notebook: Path) -> None:
    """Run all cells and print what they show."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in cells_of(notebook):
        if cell["cell_type"] == "code":
            value = run_cell("".join(cell["source"]), names)
            if value is not None:
                print(value, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
