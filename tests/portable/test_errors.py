"""A file that cannot be used is one error, made where it is read; every command names it in one line."""

from __future__ import annotations

import ast
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from models import data_spec, make_bundle
from tiny import FAST, write_dataset

from medseg.cli import main
from medseg.errors import ConfigError, DataError, MedsegError, OutputError
from medseg.portable.io.read import VolumeError, read_volume
from medseg.portable.io.write import SaveError, write_nifti

PACKAGE = Path(__file__).parents[2] / "medseg"
OF_FILES = {"VolumeError", "SaveError", "DataError", "OutputError", "MedsegError"}


# ---- the error itself


def test_an_error_is_one_line_with_path_problem_and_hint():
    error = DataError("holds\nthree  values", path=Path("a b.nii"), hint="give one")
    assert str(error) == "a b.nii: holds three values; give one"
    assert error.reason == "holds three values; give one"
    assert str(MedsegError("nothing given")) == "nothing given"
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.path, again.hint) == (DataError, str(error), error.path, "give one")


def test_a_value_without_end_is_cut():
    assert str(ConfigError(f"got '{'x' * 1000}' for a rate")) == f"got '{'x' * 79}... (1002 letters) for a rate"
    assert str(ConfigError(f"got {'x' * 400}")) == f"got {'x' * 400}"


def test_readers_and_writers_raise_what_commands_report(tmp_path):
    assert issubclass(VolumeError, DataError)
    assert issubclass(SaveError, OutputError)
    with pytest.raises(DataError, match=r"a\.nii: no such file; check the path") as caught:
        read_volume(tmp_path / "a.nii")
    assert caught.value.path == tmp_path / "a.nii"
    import numpy as np

    with pytest.raises(OutputError, match=r"gone/a\.nii\.gz: cannot be written \(No such file or directory\)"):
        write_nifti(tmp_path / "gone" / "a.nii.gz", np.zeros((2, 2, 2), np.uint8), np.eye(4))


# ---- handlers: those that only say it again in other words are none


def handlers(path: Path) -> Iterator[ast.ExceptHandler]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ExceptHandler):
            yield node


def only_repeats(handler: ast.ExceptHandler) -> bool:
    """Whether a handler of errors of files raises another one with nothing but the caught one's text and path."""
    caught = {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)} if handler.type else set()
    last = handler.body[-1]
    if not caught & OF_FILES or len(handler.body) != 1 or not isinstance(last, ast.Raise) or handler.name is None:
        return False
    if not isinstance(last.exc, ast.Call) or ast.unparse(last.exc.func) not in OF_FILES:
        return False
    repeated = {f"str({handler.name})", f"{handler.name}.reason"}
    hinted = any(keyword.arg == "hint" for keyword in last.exc.keywords)
    return bool(last.exc.args) and ast.unparse(last.exc.args[0]) in repeated and not hinted


def test_the_check_finds_a_handler_that_repeats():
    text = "try:\n    f()\nexcept VolumeError as e:\n    raise DataError(str(e), path=e.path) from e\n"
    (handler,) = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ExceptHandler)]
    assert only_repeats(handler)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_handler_repeats_an_error(path):
    lines = [handler.lineno for handler in handlers(path) if only_repeats(handler)]
    assert not lines, f"{path.name}: handlers in lines {lines} only raise the error again"


# ---- commands


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A data set whose image `case0` is cut off, folders of images, and a bundle."""
    folder = tmp_path_factory.mktemp("world")
    write_dataset(folder / "data", unlabeled=0, validation=0)
    broken = folder / "data" / "case0.nii.gz"
    broken.write_bytes(broken.read_bytes()[:4000])
    for name in ("images", "labels", "true"):
        (folder / "plain" / name).mkdir(parents=True)
    good, label = (folder / "data" / f"case1{end}.nii.gz" for end in ("", "_label"))
    for number in range(2):
        (folder / "plain" / "images" / f"c{number}.nii.gz").write_bytes(good.read_bytes())
        (folder / "plain" / "true" / f"c{number}.nii.gz").write_bytes(label.read_bytes())
        (folder / "plain" / "labels" / f"c{number}.nii.gz").write_bytes(
            label.read_bytes()[: 300 if number == 0 else None]
        )
    make_bundle(folder / "bundle", data_spec(modality=("MR",)))
    return folder


def called(capfd, *arguments: object) -> tuple[int, str]:
    """Exit code and standard error of a command."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return int(end.value.code or 0), capfd.readouterr().err


def test_train_names_a_broken_image(world, tmp_path, capfd):
    changes = [word for change in FAST for word in ("--set", change)]
    code, err = called(
        capfd, "train", "--task", "supervised", "--data", world / "data" / "m.json", "-o", tmp_path / "run", *changes
    )
    assert code == 2
    assert err.startswith(f"error: {world}/data/case0.nii.gz: training case case0: is cut off")
    assert err.count("\n") == 1


def test_predict_names_a_broken_image(world, tmp_path, capfd):
    arguments = ["-m", world / "bundle", "-i", world / "data" / "case0.nii.gz", "-o", tmp_path, "--device", "cpu"]
    code, err = called(capfd, "predict", *arguments)
    assert code == 1
    assert f"failed: {world}/data/case0.nii.gz: is cut off" in err
    code, err = called(capfd, "predict", *arguments, "--strict")
    assert code == 2
    assert err.splitlines()[-1].startswith(f"error: {world}/data/case0.nii.gz: is cut off")


def test_lines_stay_whole_where_names_of_files_have_line_breaks(world, tmp_path, capfd):
    """Of the lines of these commands none is the second half of a name."""
    wrong = tmp_path / "images" / "one\nSTRAY.nii.gz"
    wrong.parent.mkdir()
    wrong.write_bytes(b"no image")
    _, err = called(capfd, "predict", "-m", world / "bundle", "-i", wrong.parent, "-o", tmp_path / "o")
    assert "STRAY" in err
    assert not [line for line in err.splitlines() if line.startswith("STRAY")]
    (tmp_path / "true").mkdir()
    shutil.copy(wrong, tmp_path / "true")
    _, err = called(capfd, "evaluate", "-p", wrong.parent, "-r", tmp_path / "true", "-o", tmp_path / "tables")
    assert "STRAY" in err
    assert not [line for line in err.splitlines() if line.startswith("STRAY")]


def test_evaluate_names_a_broken_label(world, tmp_path, capfd):
    labels = world / "plain" / "labels"
    code, err = called(capfd, "evaluate", "-p", labels, "-r", world / "plain" / "true", "-o", tmp_path / "tables")
    assert code == 1
    assert f"{labels}/c0.nii.gz: is cut off" in err


def test_consensus_names_a_broken_image(world, tmp_path, capfd):
    label = world / "data" / "case1_label.nii.gz"
    files = ["--image", world / "data" / "case0.nii.gz", "-a", label, "-a", label, "--output", tmp_path]
    code, err = called(capfd, "consensus", *files)
    assert code == 2
    assert err.startswith(f"error: {world}/data/case0.nii.gz: is cut off")
    assert err.count("\n") == 1


def test_data_init_names_a_broken_label(world, tmp_path, capfd):
    code, err = called(capfd, "data", "init", world / "plain", "-o", tmp_path / "m.json", "--modality", "MR")
    assert code == 2
    assert err.startswith(f"error: {world}/plain/labels/c0.nii.gz: is cut off")
    assert err.count("\n") == 1


def test_data_check_lists_a_broken_image_once(world, capfd):
    capfd.readouterr()
    with pytest.raises(SystemExit) as end:
        main(["data", "check", str(world / "data" / "m.json")])
    assert end.value.code == 1
    out = capfd.readouterr().out
    assert out.count("is cut off") == 1
    assert "case0.nii.gz" in out
