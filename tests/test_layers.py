"""Imports go down only, and what must answer at once imports no torch: read from the syntax trees."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "medseg"

LAYERS = {
    6: {"cli", "__main__"},
    5: {"serve", "label"},
    4: {"workflows"},
    3: {"bundle", "consensus"},
    2: {"methods", "engine", "data"},
    1: {
        "method",
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
        "literals",
        "instantiate",
        "progress",
    },
    0: {"errors", "stopping", ""},
}
SIBLINGS = LAYERS[2]
LOWEST = "medseg.portable.errors"
"""What travels inside bundles raises these errors, so that they are defined there, and imports nothing itself."""
LIGHT = (
    "__init__",
    "errors",
    "literals",
    "config",
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


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Absolute names of what a file imports, and whether that happens when it is itself imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    later = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or is_type_checking(node)
        for child in ast.walk(node)
    }
    package = name_of(path).split(".") if path.stem == "__init__" else name_of(path).split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node not in later) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            whole = ".".join([*base, *([node.module] if node.module else [])])
            yield whole, node not in later
            if whole == "medseg" or node.module is None:  # from medseg import x: x may be a module
                yield from ((f"{whole}.{alias.name}", node not in later) for alias in node.names)


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
    for module, _ in imports(path):
        if module.split(".")[0] != "medseg" or not exists(module) or module == LOWEST:
            continue
        other = part_of(module)
        assert layer_of(other) <= layer_of(own), f"{name_of(path)} imports {module}, which is above it"
        if own in SIBLINGS and other in SIBLINGS:
            assert own == other, f"{name_of(path)} imports {module}: {sorted(SIBLINGS)} know nothing of each other"


@pytest.mark.parametrize("path", sorted((PACKAGE / "methods").glob("[!_]*.py")), ids=name_of)
def test_methods_know_the_contract_only(path):
    used = {part_of(m) for m, _ in imports(path) if m.startswith("medseg.")}
    assert used <= METHODS_MAY_USE, f"{name_of(path)} imports {sorted(used - METHODS_MAY_USE)}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "portable").rglob("*.py")), ids=name_of)
def test_portable_travels_without_medseg(path):
    for module, at_once in imports(path):
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
