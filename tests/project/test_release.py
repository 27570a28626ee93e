"""A release: one version everywhere, sdist and wheel that hold everything, and a wheel that works elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from medseg import __version__
from medseg.cli.listing import everything

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "release"))

import check  # noqa: E402
import versions  # noqa: E402

CHANGELOG = """# Changelog

## [Unreleased]

## [1.2.0] - 2026-11-29

### Added

- More.

## [1.1.0] - 2026-10-01

- Less.
"""
RELEASED = versions.Sources(
    "1.2.0", "1.2.0", versions.read_sections(CHANGELOG), frozenset({"v1.2.0"}), frozenset({"v1.1.0"})
)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The folder with sdist and wheel that the check without an installation leaves."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, str(ROOT / "release" / "check.py"), "--only-build", "--output", str(folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith(
        f"rehearsal of {__version__}: what was tried passed; for a release: "
    )
    assert sorted(path.name for path in folder.iterdir()) == [
        f"medseg-{__version__}-py3-none-any.whl",
        f"medseg-{__version__}.tar.gz",
    ]
    return folder


def test_the_installed_wheel_works_in_another_folder(built, tmp_path):
    """In an environment that sees the packages of this one, but not the checkout."""
    venv.create(tmp_path / "environment", with_pip=False)
    programs = tmp_path / "environment" / "bin"
    (wheel,) = built.glob("*.whl")
    install = [sys.executable, "-m", "pip", "--python", str(programs / "python"), "install", "--quiet", "--no-deps",
               "--no-index", str(wheel)]  # fmt: skip
    subprocess.run(install, check=True, timeout=300)
    (packages,) = (tmp_path / "environment" / "lib").glob("python*/site-packages")
    # the editable installation of this environment is a .pth of its own, which is not read for a folder added so
    (packages / "these.pth").write_text(sysconfig.get_path("purelib") + "\n")
    work = tmp_path / "work"
    work.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(program: str, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            [str(programs / program), *words], cwd=work, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    where = run("python", "-c", "import medseg; print(medseg.__file__)").strip()
    assert Path(where).is_relative_to(packages)
    assert run("medseg", "--version") == f"medseg {__version__}\n"
    listed = json.loads(run("medseg", "list", "--json"))
    assert listed == json.loads(json.dumps(everything()))
    assert {"dtc", "supervised"} <= {each["name"] for each in listed["pipelines"]}
    cases = [{"image": "a.nii.gz", "label": "b.nii.gz"}]
    manifest = {"modality": "CT", "labels": {"0": "background", "1": "liver"}, "training": cases}
    (work / "m.json").write_text(json.dumps(manifest))
    assert "a.nii.gz" in run("medseg", "data", "check", "m.json", code=1)


def test_a_wheel_that_is_not_as_it_should_be_is_refused(built, tmp_path):
    (sdist,), (wheel,) = built.glob("*.tar.gz"), built.glob("*.whl")
    check.check_files(sdist, wheel, __version__)
    described = f"medseg-{__version__}.dist-info/METADATA"
    with zipfile.ZipFile(wheel) as old:
        whole = {name: old.read(name) for name in old.namelist()}
    lacking = {name: content for name, content in whole.items() if name != "medseg/py.typed"}
    unreadable = whole[described].replace(b"Requires-Python: >=", b"Requires-Python: about ")
    for files, said in (
        (lacking, "lacks 1 files, such as medseg/py.typed"),
        (
            {**whole, "medseg/left_over.py": b""},
            "has 1 files that are not of the checkout, such as medseg/left_over.py",
        ),
        ({**whole, described: unreadable}, "requires-python"),
        ({**whole, described: whole[described].partition(b"\n\n")[0] + b"\n"}, "a README"),
    ):
        changed = tmp_path / wheel.name
        with zipfile.ZipFile(changed, "w") as new:
            for name, content in files.items():
                new.writestr(name, content)
        with pytest.raises(versions.ReleaseError, match=said):
            check.check_files(sdist, changed, __version__)


def test_this_checkout_contradicts_itself_nowhere():
    assert versions.contradictions(versions.read_sources()) == []
    assert versions.read_sources().version == __version__


def test_a_release_has_one_version_everywhere():
    assert versions.contradictions(RELEASED) == []
    assert versions.missing_for_release(RELEASED) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"citation": "1.1.0"}, "CITATION.cff has the version 1.1.0, medseg.__version__ is 1.2.0"),
        ({"tags": frozenset({"v1.3.0"})}, "this commit has the tag v1.3.0, medseg.__version__ is 1.2.0"),
        ({"earlier_tags": frozenset({"v1.2.0"})}, "v1.2.0 is the tag of another commit"),
        ({"earlier_tags": frozenset({"v1.10.0"})}, "v1.10.0 is the tag of another commit"),
        ({"version": "1.1.0", "citation": "1.1.0", "tags": frozenset(), "earlier_tags": frozenset()},
         "CHANGELOG.md has a section 1.2.0, newer than medseg.__version__, 1.1.0"),
        ({"version": "1.2.00", "citation": "1.2.00", "tags": frozenset({"v1.2.00"})}, "written in full it is 1.2.0"),
    ],
)  # fmt: skip
def test_versions_that_differ_are_told(changes, said):
    (found,) = versions.contradictions(replace(RELEASED, **changes))
    assert said in found


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": "1.3.0.dev0"}, "1.3.0.dev0 is a version between releases"),
        ({"version": "1.3.0"}, "the newest section of CHANGELOG.md is not 1.3.0"),
        ({"sections": versions.read_sections(CHANGELOG.replace(" - 2026-11-29", ""))},
         "the section 1.2.0 of CHANGELOG.md has no date"),
        ({"sections": versions.read_sections(CHANGELOG.replace("[Unreleased]\n", "[Unreleased]\n- New.\n"))},
         "CHANGELOG.md has entries under Unreleased"),
        ({"changed": True}, "files differ from the commit"),
    ],
)  # fmt: skip
def test_what_a_release_lacks_is_told(changes, said):
    assert said in "; ".join(versions.missing_for_release(replace(RELEASED, **changes)))


def git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)


def test_a_tagged_commit_must_be_a_release(tmp_path, monkeypatch, capsys):
    """Read from a real checkout, and refused before anything is built."""
    (tmp_path / "medseg").mkdir()
    (tmp_path / "medseg" / "__init__.py").write_text('__version__ = "1.2.0"\n')
    (tmp_path / "CITATION.cff").write_text("version: 1.2.0\n")
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "before")
    git(tmp_path, "tag", "v1.1.0")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "now")
    git(tmp_path, "tag", "v1.2.0")
    git(tmp_path, "tag", "vendored")
    assert versions.read_sources(tmp_path) == RELEASED

    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG.replace("1.2.0", "1.1.5"))
    found = versions.read_sources(tmp_path)
    monkeypatch.setattr(check, "read_sources", lambda: found)
    monkeypatch.setattr(sys, "argv", ["check.py", "--output", str(tmp_path / "dist")])
    assert check.main() == 1
    said = capsys.readouterr().err
    assert "error: the newest section of CHANGELOG.md is not 1.2.0\nfiles differ from the commit" in said
    assert not (tmp_path / "dist").exists()
