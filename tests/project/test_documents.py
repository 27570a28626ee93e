"""README and docs run as they are written: a reader who goes from the top to the bottom meets no command that fails."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from document_data import write_dicom, write_layouts, write_public, write_scans
from documents import (
    DOCUMENTS,
    ELSEWHERE,
    PATIENCE,
    ROOT,
    Block,
    Terminal,
    blocks_of,
    commands_of,
    complaint,
    is_fair,
    replace,
    told,
)
from forking import folder as folder_of_programs
from forking import python

from medseg.manifest.manifest import Manifest

SHORTER = {"25m": "10s", "2h": "10s"}
"""What is replaced in the documents before they are run: durations, and nothing else."""

PROMISED = {
    "README.md": [
        "my_scans/manifest.json",
        "runs/first/pipeline.yaml",
        "runs/first/bundle/configs/inference.json",
        "runs/first/report.html",
        "predictions/predict_report.html",
        "checked/evaluation/report.html",
        "large.yaml",
        "checked/evaluation/montage.png",
        "stock",
        "runs/planes/summary.html",
        "axial",
        "wider",
        "fused/report.html",
    ],
    "docs/manifest.md": [
        "tumours/probabilities/case3.nii.gz",
        "sets/structures_labels/p1.nii.gz",
        "sets/photos_labels/masks_1.png",
    ],
    "docs/predicting.md": [
        "drawn/overlays/test_000.png",
        "everything/predict_report.json",
        "both/predict_report.json",
        "first.onnx",
    ],
    "docs/serving.md": [
        "bundle/models/model_finetuned.pt",
        "bundle/models/model.ts",
        "segmented/series.nii.gz",
        "segmented/series.dcm",
        "segmented/p1.seg.nrrd",
        "together/consensus.dcm",
    ],
    "docs/compare.md": ["runs/norms/report.html", "runs/norms/cases.csv", "runs/norms/table.md"],
    "data_manifests/README.md": ["ACDC/images/patient001_frame02.nii.gz", "Pancreas-CT/images/image0003.nii.gz"],
}
"""Files and folders that a document says are there afterwards."""


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """A reader's folder, with the scans that the documents speak of."""
    folder = tmp_path_factory.mktemp("reader")
    write_scans(folder)
    write_layouts(folder)
    write_dicom(folder)
    write_public(folder, ROOT / "data_manifests")
    return folder


def go_through(document: str, folder: Path) -> None:
    """Do every block of a document in its order, in one terminal."""
    terminal = Terminal(folder, programs=folder_of_programs())
    for block in blocks_of(document):
        if not block.runs_here:
            continue
        if block.language == "json":
            check_json(block)
        else:
            terminal.do(block, SHORTER)
    missing = [name for name in PROMISED.get(document, []) if not (folder / name).exists()]
    assert not missing, f"{document} says that these are there: {missing}"


def check_json(block: Block) -> None:
    """A manifest is one by medseg's own rules; of lines of JSON each is some."""
    try:
        content = json.loads(block.text)
    except json.JSONDecodeError:
        lines = [json.loads(line) for line in block.text.splitlines()]
        assert len(lines) > 1, f"{block}: is no JSON"
        return
    if "labels" in content:
        Manifest.build(content, Path("manifest.json"))


@pytest.fixture(scope="module")
def after_readme(desk) -> Path:
    """The reader's folder once README is done, which the other documents count on."""
    go_through("README.md", desk)
    return desk


@pytest.mark.slow
@pytest.mark.timeout(1800 * PATIENCE)
def test_readme_runs_as_it_is_written(after_readme, capsys):
    with capsys.disabled():
        print(told(SHORTER))
    assert (after_readme / "predictions").is_dir()


@pytest.mark.slow
@pytest.mark.timeout(1800 * PATIENCE)
@pytest.mark.parametrize("document", DOCUMENTS[1:])
def test_the_other_documents_run_as_they_are_written(document, after_readme):
    go_through(document, after_readme)


def test_every_block_is_run_or_says_why_not():
    everything = [block for document in DOCUMENTS for block in blocks_of(document)]
    assert len(everything) > 30, "the documents are read, not passed over"
    assert not list(filter(None, map(complaint, everything)))


def test_every_page_is_among_the_documents():
    found = [path for folder in ("docs", "docs/results") for path in ROOT.glob(f"{folder}/*.md")]
    pages = {path.relative_to(ROOT).as_posix() for path in found}
    assert pages <= set(DOCUMENTS)
    assert {path.relative_to(ROOT).as_posix() for path in ROOT.glob("[!.]*/README.md")} <= set(DOCUMENTS)


def test_only_durations_are_replaced_and_all_of_them_occur():
    everything = "".join(block.text for document in DOCUMENTS for block in blocks_of(document))
    for old, new in SHORTER.items():
        assert is_fair(old, new)
        assert replace(everything, {old: "x"}) != everything
    assert not is_fair("25m", "25m --set stages.0.schedule.iterations=3")
    assert not is_fair("--validation", "--strict")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    lost = [link for link in links if "://" not in link and not (ROOT / document).parent.joinpath(link).exists()]
    assert not lost


def test_options_named_in_the_text_are_there():
    """`medseg X --option` in running text, which no block runs."""
    named: dict[str, set[str]] = {}
    for document in DOCUMENTS:
        text = (ROOT / document).read_text(encoding="utf-8")
        for words in re.findall(r"(?<!`)`medseg ([a-z]+(?: [a-z]+)?)((?: [^`\n]*)?)`", text):
            command = words[0] if words[0].split()[0] in ("data", "label") else words[0].split()[0]
            named.setdefault(command, set()).update(re.findall(r"(?<!\S)--?[a-z][\w-]*", words[1]))
    assert "predict" in named
    for command, options in named.items():
        done = subprocess.run(
            [python(), "-m", "medseg", *command.split(), "--help"], capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 0, f"medseg {command} is in the documents: {done.stderr}"
        assert not options - set(re.findall(r"--?[a-z][\w-]*", done.stdout)), command


PAGE = """
<!-- not run: it takes hours -->
```bash
make it
```

<!-- run by serving/tests/test_documents.py: it needs
a server -->
```bash
serve it
```

- in a list

  ```json
  {"a": 1}
  ```

<!-- not run: -->
```bash
hide it
```

<!-- run by tests/nowhere.py: it needs a server -->
```bash
serve it
```

```
medseg --help
```

    indented

<!-- a comment -->
```python
1
```
"""


def test_blocks_are_found_with_what_is_said_of_them():
    found = blocks_of("README.md", PAGE)
    assert [block.language for block in found] == ["bash", "bash", "json", "bash", "bash", "", "", "python"]
    assert [block.line for block in found][:3] == [4, 10, 16]
    assert [block.runs_here for block in found] == [False, False, True, False, False, True, True, True]
    assert found[0].reason == "it takes hours"
    assert found[1].test == ELSEWHERE
    wrong = [complaint(block) for block in found]
    assert [said is not None for said in wrong] == [False, False, False, True, True, True, True, False]
    assert "reason why it is not run is empty" in wrong[3]
    assert "tests/nowhere.py" in wrong[4]
    assert "of no language" in wrong[5]


def test_a_terminal_keeps_folder_and_variables_and_fails_with_its_commands(tmp_path):
    terminal = Terminal(tmp_path)
    text = "mkdir -p in/here && cd in/here\n# a remark\nexport NAME='a\nb'\n"
    block = Block("README.md", 1, "bash", text.replace("a\nb", "a b") + 'echo "$NAME" \\\n  > found.txt\ncd ..\n')
    assert len(commands_of(block.text)) == 4
    terminal.do(block, {})
    assert (tmp_path / "in/here/found.txt").read_text() == "a b\n"
    assert terminal.folder == tmp_path / "in"
    for command in ("false", "false && true", "false | true", "cd nowhere", "medseg data check none.json"):
        with pytest.raises(AssertionError, match=r"README.md:1: exit code"):
            terminal.do(Block("README.md", 1, "bash", command), {})
    with pytest.raises(AssertionError, match="no such thing"):
        terminal.do(Block("README.md", 1, "python", "raise ValueError('no such thing')"), {})


def test_a_snippet_that_trains_without_a_guard_is_refused(tmp_path):
    """Processes that training starts import the file anew: it would train in each of them."""
    text = "import pathlib\ndef train():\n    pathlib.Path('run').mkdir()\n\n"
    with pytest.raises(AssertionError, match=r"the processes that snippet_1\.py starts"):
        Terminal(tmp_path).do(Block("README.md", 1, "python", text + "train()\n"), {})
    (tmp_path / "run").rmdir()
    Terminal(tmp_path).do(Block("README.md", 1, "python", text + "if __name__ == '__main__':\n    train()\n"), {})


def test_durations_are_replaced_as_words():
    text = 'medseg train --budget 25m --output runs/25m --name x25m\ntrain(budget="25m")'
    assert replace(text, {"25m": "10s"}) == text.replace('"25m"', '"10s"').replace("t 25m", "t 10s")


def test_a_snippet_that_opens_with_its_name_stays(tmp_path):
    terminal = Terminal(tmp_path)
    terminal.do(Block("README.md", 1, "python", "# mine.py\nX = 3\n"), {})
    terminal.do(Block("README.md", 5, "bash", 'python -c "import mine; assert mine.X == 3"\n'), {})
    terminal.do(Block("README.md", 9, "yaml", "# mine.yaml\nname: mine\n"), {})
    with pytest.raises(AssertionError, match="is empty"):
        terminal.do(Block("README.md", 12, "yaml", "# nothing\n"), {})
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"mine.py", "mine.yaml"}


def torn_rows(text: str) -> list[int]:
    """Lines, from 1, of rows with more or fewer cells than the first row of their table; code may contain bars."""
    found, cells = [], None
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.startswith("|"):
            cells = None
            continue
        count = re.sub(r"`[^`]*`|\\\|", "", line).count("|")
        cells = count if cells is None else cells
        if count != cells:
            found.append(number)
    return found


def test_torn_rows_are_found():
    assert torn_rows("| a | b |\n|---|---|\n| 1 | 2 |\n| 1 |\n\n| one |\n| `x|y` |\n| 1 \\| 2 |\n| 1 | 2 |\n") == [4, 9]


def test_rows_of_a_table_have_as_many_cells():
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")]
    assert len(pages) > 40
    torn = {str(page.relative_to(ROOT)): torn_rows(page.read_text(encoding="utf-8")) for page in pages}
    assert {page: rows for page, rows in torn.items() if rows} == {}
