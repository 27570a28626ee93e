"""Imports go down only, and what must answer at once imports no torch: read from the syntax trees."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "medseg"

LAYERS = {
    6: {"cli", "__main__"},
    5: {"serve", "label"},
    4: {"workflows"},
    3: {"bundle", "consensus"},
    2: {"methods", "engine", "data"},
    1: {
        "method",
        "stream",
        "pseudo_labels",
        "ops",
        "networks",
        "config",
        "manifest",
        "planning",
        "metrics",
        "portable",
        "dicom",
        "atomic",
        "cores",
        "options",
        "records",
        "progress",
    },
    0: {"errors", "stopping", "structure_names", ""},
}
SIBLINGS = LAYERS[2]
LOWEST = "medseg.portable.errors"
"""What travels inside bundles raises these errors, so that they are defined there, and imports nothing itself."""
LIGHT = (
    "__init__",
    "errors",
    "config/__init__",
    "config/literals",
    "config/pipeline",
    "config/between_runs",
    "config/repeated_stages",
    "config/former_pipelines",
    "config/yaml_values",
    "cli/*",
    "manifest/*",
    "portable/__init__",
    "portable/errors",
    "portable/io/read",
    "networks/registry",
)
PORTABLE = {"numpy", "nibabel", "torch", "monai"}
PORTABLE_INSIDE_FUNCTIONS = {"deflate", "isal", "PIL", "itk", "SimpleITK"}
METHODS_MAY_USE = {"method", "ops", "portable", "errors"}

FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


class Import(NamedTuple):
    """An absolute name that a file imports.

    Attributes:
        module: the module, or what is imported of a module, which may be a module itself.
        at_once: whether that happens when the file is itself imported.
        for_types: whether it never happens, but for type checkers.
    """

    module: str
    at_once: bool
    for_types: bool


def imports(path: Path) -> Iterator[Import]:
    """Everything that a file imports, in functions too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)]
    inside_functions = {child for function in functions for child in ast.walk(function)}
    for_types = {child for node in ast.walk(tree) if is_type_checking(node) for child in ast.walk(node)}
    later = inside_functions | for_types
    package = name_of(path).split(".") if path.stem == "__init__" else name_of(path).split(".")[:-1]
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            whole = ".".join([*base, *([node.module] if node.module else [])])
            names = [whole, *(f"{whole}.{alias.name}" for alias in node.names)]
        for name in names:
            yield Import(name, node not in later, node in for_types)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def part_of(module: str) -> str:
    """The part of the table that a module is in: the folder or file right below `medseg`."""
    return [*module.split("."), ""][1]


def layer_of(part: str) -> int:
    found = [layer for layer, parts in LAYERS.items() if part in parts]
    assert found, f"medseg/{part} is in no layer: add it to LAYERS in {Path(__file__).name}"
    return found[0]


def exists(module: str) -> bool:
    base = ROOT.joinpath(*module.split("."))
    return base.is_dir() or base.with_suffix(".py").is_file()


@pytest.mark.parametrize("path", [f for f in FILES if name_of(f) != "medseg"], ids=name_of)  # a door, opened lazily
def test_imports_go_down_only(path):
    own = part_of(name_of(path))
    for module in sorted({found.module for found in imports(path)}):
        if module.split(".")[0] != "medseg" or not exists(module) or module == LOWEST:
            continue
        other = part_of(module)
        assert layer_of(other) <= layer_of(own), f"{name_of(path)} imports {module}, which is above it"
        if own in SIBLINGS and other in SIBLINGS:
            assert own == other, f"{name_of(path)} imports {module}: {sorted(SIBLINGS)} know nothing of each other"


@pytest.mark.parametrize("path", sorted((PACKAGE / "methods").glob("[!_]*.py")), ids=name_of)
def test_methods_know_the_contract_only(path):
    used = {part_of(found.module) for found in imports(path) if found.module.startswith("medseg.")}
    assert used <= METHODS_MAY_USE, f"{name_of(path)} imports {sorted(used - METHODS_MAY_USE)}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "portable").rglob("*.py")), ids=name_of)
def test_portable_travels_without_medseg(path):
    for module, at_once, _ in imports(path):
        top = module.split(".")[0]
        if top == "medseg":
            assert module.startswith("medseg.portable"), f"{name_of(path)} imports {module}"
            assert "from medseg" not in path.read_text(encoding="utf-8"), "imports among portable are relative"
        elif top in PORTABLE_INSIDE_FUNCTIONS:
            assert not at_once, f"{top} is optional: import it inside the function of {name_of(path)} that uses it"
        else:
            assert top in PORTABLE | sys.stdlib_module_names, f"{name_of(path)} imports {module}"


def test_what_must_answer_at_once_imports_no_torch():
    files = sorted({path for pattern in LIGHT for path in PACKAGE.glob(f"{pattern}.py")})
    assert len(files) >= len(LIGHT)
    code = f"import sys, importlib\nfor name in {[name_of(p) for p in files]!r}: importlib.import_module(name)\n"
    code += "sys.exit(', '.join(sorted({'torch', 'monai', 'ignite'} & set(sys.modules))) or None)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, f"imported: {run.stderr}"


def test_no_modules_import_each_other_in_a_circle():
    assert import_circles(medseg_imports()) == []


def test_a_circle_is_found_wherever_it_is_closed(monkeypatch, tmp_path):
    bodies = {
        "medseg/a.py": "from medseg.b import name",
        "medseg/b.py": "def late():\n    from medseg import c",  # an import inside a function closes a circle too
        "medseg/c.py": "import medseg.a\nimport medseg.d",
        "medseg/d.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from medseg.a import name",
    }
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    for name, body in bodies.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(body)
    monkeypatch.setattr(sys.modules[__name__], "FILES", sorted(tmp_path.rglob("*.py")))
    assert import_circles(medseg_imports()) == [["medseg.a", "medseg.b", "medseg.c"]]


def medseg_imports() -> dict[str, set[str]]:
    """The modules of medseg that each of its modules imports, at once or inside a function; not those for types only.

    That Python runs a folder's `__init__` before a module of the folder is not counted as an import of it.
    """
    modules = {name_of(path) for path in FILES}
    found: dict[str, set[str]] = {}
    for path in FILES:
        imported = {one.module for one in imports(path) if not one.for_types}
        found[name_of(path)] = imported & modules - {name_of(path)}
    return found


def import_circles(imported: dict[str, set[str]]) -> list[list[str]]:
    """Modules of which each leads to every other one: the strongly connected components of more than one module."""
    names = sorted(imported)
    number = {name: n for n, name in enumerate(names)}
    edges = [(number[name], number[other]) for name in names for other in imported[name]]
    sources, targets = np.array(edges, int).reshape(-1, 2).T
    graph = csr_array((np.ones(len(edges)), (sources, targets)), shape=(len(names), len(names)))
    _, component = connected_components(graph, connection="strong")
    members: dict[int, list[str]] = {}
    for name in names:
        members.setdefault(int(component[number[name]]), []).append(name)
    return sorted(group for group in members.values() if len(group) > 1)


def test_files_are_short_and_functions_fit_on_a_screen():
    long_files, long_functions, wide = [], [], []
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > 300:
            long_files.append(name_of(path))
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.FunctionDef):
                continue
            if code_lines(node, text) > 60:
                long_functions.append(f"{name_of(path)}.{node.name}")
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            # a command's options and a paper's hyper-parameters are as many as they are
            free = path.parent.name in ("cli", "methods")
            if len([a for a in arguments if a.arg not in ("self", "cls")]) > 8 and not free:
                wide.append(f"{name_of(path)}.{node.name}")
    assert not long_files
    assert not long_functions
    assert not wide


def code_lines(node: ast.FunctionDef, text: str) -> int:
    """Lines of a function that are neither docstring, comment nor blank."""
    first = node.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    start = (first.end_lineno or 0) if documented else node.lineno
    lines = text.split("\n")[start : node.end_lineno]
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in lines)
