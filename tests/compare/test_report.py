"""The report of a comparison: sentences that say no more than the numbers, the table for documents, the page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from jinja2 import UndefinedError
from pages import NASTY, Page, shown

from medseg.workflows.compare.report import page
from medseg.workflows.compare.report.description import ArmDescription, Description, Picture
from medseg.workflows.compare.report.differences import Difference
from medseg.workflows.compare.report.findings import collect
from medseg.workflows.compare.report.page import render_report, write_report
from medseg.workflows.compare.report.sentences import _take_the_best, describe_difference, judge, which_to_take
from medseg.workflows.compare.report.table import as_markdown
from medseg.workflows.compare.scores.rows import CaseRow, RunKey, RunRow
from medseg.workflows.reports import pages

MIB = 2**20


def described(*arms: str, planned: tuple[RunKey, ...] = (), **more) -> Description:
    descriptions = tuple(ArmDescription(name, f"task of {name}", ("a=1", "b=2")) for name in arms)
    facts = {
        "title": "A comparison",
        "command": "medseg compare",
        "data": "m.json",
        "judged": "8 cases of the list test",
    }
    return Description(arms=descriptions, planned=planned, effort="60 iterations for each run", **(facts | more))


def rows_of(arm: str, dice: list[float], seeds: int = 2, labels: int | None = None, structure: str = "liver"):
    """Finished runs of an arm, and the Dice of each subject, the same with each seed."""
    runs, cases = [], []
    for seed in range(seeds):
        key = RunKey(arm, seed, labels)
        runs.append(RunRow(key, "", 60, 90.0 + 60 * seed, 100.0, (1024 + 512 * seed) * MIB))
        for number, value in enumerate(dice):
            metrics = {"dice": value, "hd95_mm": 4.0, "surface_dice": value}
            cases.append(CaseRow(key, f"c{number}", f"s{number}", structure, metrics, 5, 10, 10))
            cases.append(CaseRow(key, f"c{number}", f"s{number}", "background", {}, 90, 100, 100))
    return runs, cases


def joined(*parts):
    return [run for runs, _ in parts for run in runs], [case for _, cases in parts for case in cases]


BASE = [0.5, 0.6, 0.7, 0.8, 0.5, 0.6, 0.7, 0.8]
BETTER = [value + 0.1 + 0.001 * place for place, value in enumerate(BASE)]
WORSE = [value - 0.1 - 0.001 * place for place, value in enumerate(BASE)]
EITHER = [value + (0.1 + 0.001 * place) * (-1) ** place for place, value in enumerate(BASE)]


def opening(*parts, arms=("base", "new"), **more) -> str:
    return " ".join(which_to_take(collect(described(*arms, **more), *joined(*parts))))


# ---- sentences


def difference(low: float, high: float, p: float | None, seeds: int = 3, subjects: int = 20) -> Difference:
    return Difference("new", "base", None, "dice", (low + high) / 2, low, high, subjects, seeds, p)


@pytest.mark.parametrize(
    ("low", "high", "p", "verdict"),
    [
        (0.004, 0.02, 0.01, "better"),
        (-0.02, -0.004, 0.01, "worse"),
        (-0.004, 0.02, 0.01, "open"),  # of one sign in most subjects, but the seeds differ as much
        (0.004, 0.02, 0.05, "open"),
        (0.004, 0.02, None, "untested"),
    ],
)
def test_a_difference_is_shown_where_test_and_interval_agree(low, high, p, verdict):
    assert judge(difference(low, high, p)) == verdict


def test_sentences():
    assert describe_difference(difference(0.004, 0.02, 0.0123)) == (
        "new is better than base: +0.012 Dice (95 % interval 0.004 to 0.020, p 0.012; 20 subjects, 3 seeds)."
    )
    assert describe_difference(difference(-0.02, -0.004, 0.0001)).startswith("new is worse than base: -0.012 Dice")
    assert "p < 0.001" in describe_difference(difference(-0.02, -0.004, 0.0001))
    assert describe_difference(difference(-0.01, 0.02, 0.4)) == (
        "new: no difference from base is shown at this size: +0.005 Dice (95 % interval -0.010 to 0.020, p 0.400; "
        "20 subjects, 3 seeds)."
    )
    few = describe_difference(difference(0.004, 0.02, None, subjects=5))
    assert few.endswith("No test is made of fewer than 6 subjects, so that no difference from base is shown.")
    alone = describe_difference(difference(0.004, 0.02, 0.01, seeds=1))
    assert alone.startswith("The one training of new is better than that of base")
    assert alone.endswith("With one seed, how much trainings of one arm differ by chance is not known.")
    nothing = Difference("new", "base", None, "dice", None, None, None, 0, 0)
    assert "nothing can be compared" in describe_difference(nothing)
    single = Difference("new", "base", None, "dice", 0.1, None, None, 1, 2)
    assert describe_difference(single).startswith("new: +0.100 Dice (1 subject, 2 seeds). No test")


def test_which_to_take():
    base = rows_of("base", BASE)
    better = opening(base, rows_of("new", BETTER))
    assert better.startswith("Take new: +0.103 Dice (95 % interval 0.102 to 0.105, p 0.008; 8 subjects, 2 seeds)")
    assert opening(base, rows_of("new", WORSE)) == "Take base: every other arm is shown to be worse."
    assert opening(base, rows_of("new", EITHER)).startswith("Take base: it has the highest mean Dice, 0.650, and no ")
    higher = [value + 0.0105 for value in EITHER]
    assert opening(base, rows_of("new", higher)) == (
        "No arm is shown to be better than base; new has the highest mean Dice, 0.660 against 0.650, which at this "
        "size may be chance."
    )
    best = [value + 0.05 for value in BETTER]
    three = opening(base, rows_of("new", BETTER), rows_of("third", best), arms=("base", "new", "third"))
    assert three.startswith("Take third: ")
    assert three.endswith("; new is better than base too, and no test was made between them.")
    alone = rows_of("base", BASE, 1)
    assert "as far as one training of each can tell" in opening(alone, rows_of("new", BETTER, 1))
    worse = "Take base, as far as one training of each can tell: every other arm is shown to be worse."
    assert opening(alone, rows_of("new", WORSE, 1)) == worse


def test_of_better_arms_that_with_the_highest_mean_of_the_table_is_taken():
    """Differences are means over cases, the table's are means over structures, of which rare ones count as much."""
    more, less = (
        Difference(name, "base", None, "dice", mean, 0.01, 0.1, 20, 1, 0.01)
        for name, mean in (("a", 0.04), ("b", 0.03))
    )
    assert _take_the_best([more, less], {"a": 0.14, "b": 0.17}).startswith("take b, as far as")
    assert _take_the_best([more, less], {"a": 0.17, "b": 0.14}).startswith("take a, as far as")
    repeated = replace(less, seeds=3)
    assert _take_the_best([more, repeated], {"a": 0.17, "b": 0.14}).startswith("take b: ")


def test_which_to_take_where_runs_are_missing():
    assert opening() == "No run is finished, so that there is nothing to say yet."
    assert opening(rows_of("base", BASE)) == "base has a mean Dice of 0.650; no run of the others is finished."
    assert opening(rows_of("base", BASE), arms=("base",)) == "base has a mean Dice of 0.650."
    assert opening(rows_of("new", BASE)).startswith("No run of base is finished")


def test_a_sentence_for_each_number_of_labels():
    parts = [rows_of("base", BASE, labels=4), rows_of("new", BETTER, labels=4)]
    parts += [rows_of("base", BASE, labels=16), rows_of("new", EITHER, labels=16)]
    first, second = which_to_take(collect(described("base", "new"), *joined(*parts)))
    assert first.startswith("With 4 labelled subjects: take new: ")
    assert second.startswith("With 16 labelled subjects: take base: ")


# ---- missing runs


def test_failed_and_missing_runs_are_named_and_count_for_nothing():
    keys = tuple(RunKey(arm, seed) for arm in ("base", "new") for seed in range(3))
    runs, cases = joined(rows_of("base", BASE, 3), rows_of("new", BETTER, 2))
    runs.append(RunRow(RunKey("new", 2), "/scans/a.nii.gz: is damaged"))
    cases += rows_of("new", WORSE, 3)[1][-16:]  # what the failed run had predicted
    del runs[0]
    findings = collect(described("base", "new", planned=keys), runs, cases)
    assert findings.missing == ("new, seed 2: failed, /scans/a.nii.gz: is damaged", "base, seed 0: not finished")
    assert findings.result(None, "new").seeds == (0, 1)
    assert findings.difference(None, "new", "dice").seeds == 1  # seed 1 is all that both have
    text = as_markdown(findings)
    assert "| base | 2 of 3 |" in text
    assert "| new | 2 of 3 |" in text
    assert "- new, seed 2: failed, /scans/a.nii.gz: is damaged" in text


# ---- table.md


def test_the_table_for_documents_by_hand():
    runs, cases = joined(rows_of("base", BASE), rows_of("new|old", BETTER))
    text = as_markdown(collect(described("base", "new|old", planar=True, tolerance_mm=2.0), runs, cases))
    lines = text.splitlines()
    assert (
        "| arm | runs | Dice | HD95 mm | surface Dice at 2 mm | mIoU of the set | CPU minutes | peak memory GiB | "
        "Dice against base (95 % interval) | p |"
    ) in lines
    iou = (90 / 110 + 5 / 15) / 2
    assert (
        f"| base | 2 of 2 | 0.650 ± 0.000 | 4.00 ± 0.00 | 0.650 ± 0.000 | {iou:.3f} ± 0.000 | 2.0 | 1.5 | - | - |"
        in lines
    )
    (row,) = [line for line in lines if line.startswith("| new\\|old | 2 of 2 ")]
    assert row.endswith("| 2.0 | 1.5 | +0.103 (0.102 to 0.105) | 0.008 |")
    assert "- new|old: task task of new|old; with a=1 b=2; 60 iterations" in lines


def test_what_is_not_defined_is_counted_in_the_cell():
    runs, cases = rows_of("base", BASE, 1)
    cases.append(CaseRow(RunKey("base", 0), "x", "x", "liver", {"dice": 0.0, "hd95_mm": None}, 0, 0, 7))
    cases.append(CaseRow(RunKey("base", 0), "y", "y", "liver", {"dice": 1.0, "hd95_mm": None}, 0, 0, 0))
    text = as_markdown(collect(described("base"), runs, cases))
    assert "| base | 1 of 1 | 0.578 | 4.00 [1] |" in text  # 8 cases of 0.65 and one of 0
    counted = "base: a structure is in neither the prediction nor the reference 1 time, HD95 is not defined 1 time"
    assert counted in text


def test_structures_have_tables_of_their_own_where_there_are_several():
    runs, cases = joined(rows_of("base", BASE, 1), rows_of("base", [0.75] * 8, 1, structure="spleen"))
    text = as_markdown(collect(described("base"), runs[:1], cases))
    assert "| liver | 0.650 |\n" in text
    assert "| spleen | 0.750 |\n" in text
    assert "| mean of the structures | 0.700 |\n" in text
    flat = as_markdown(collect(described("base", planar=True), runs[:1], cases))
    assert "| IoU of the set | base |\n| --- | --- |\n| liver | 0.333 |\n| background | 0.818 |\n" in flat
    one = as_markdown(collect(described("base"), *rows_of("base", BASE, 1)))
    assert "mean of the structures |" not in one


# ---- the page


def hostile(tmp_path: Path) -> tuple[Description, list, list]:
    """A comparison in which everything that a user can name is hostile."""
    names = (f"{NASTY}base", f"{NASTY}$new_{{^\\")
    keys = tuple(RunKey(name, 0, labels) for name in names for labels in (4, 16))
    parts = []
    for labels in (4, 16):
        parts += [
            rows_of(names[0], BASE, 1, labels, f"{NASTY}liver"),
            rows_of(names[1], BETTER, 1, labels, f"{NASTY}liver"),
        ]
        parts.append(rows_of(names[0], BASE, 1, labels, f"{NASTY}spleen"))
    runs, cases = joined(*parts)
    runs = list({run.key: run for run in runs}.values())
    runs.append(RunRow(RunKey(names[1], 7), f"{NASTY}failed"))
    (tmp_path / "worst.png").write_bytes(b"png")
    pictures = (
        Picture(tmp_path / "worst.png", keys[0], f"{NASTY}case", 0.25),
        Picture(tmp_path / "gone", keys[0], "x"),
    )
    arms = tuple(
        ArmDescription(name, f"{NASTY}task", (f"{NASTY}set",), f"{NASTY}data", f"{NASTY}plan") for name in names
    )
    description = Description(
        title=f"{NASTY}title", command=f"{NASTY}command", arms=arms, data=f"{NASTY}data", judged=f"{NASTY}judged",
        effort=f"{NASTY}effort", planned=keys, machine=f"{NASTY}machine", versions={f"{NASTY}package": f"{NASTY}1"},
        pictures=pictures, notes=(f"{NASTY}note",), planar=True,
    )  # fmt: skip
    return description, runs, cases


def test_the_page_escapes_names_and_needs_every_value(tmp_path, monkeypatch):
    filled = {}

    def render(template, **data):
        filled.update(data)
        return pages.render_page(template, **data)

    monkeypatch.setattr(page, "render_page", render)
    description, runs, cases = hostile(tmp_path)
    path = write_report(tmp_path / "report", description, runs, cases)
    found = Page(path.read_text(encoding="utf-8"))
    ends = ("title", "command", "data", "judged", "effort", "task", "set", "plan", "note", "package", "1", "machine",
            "base", "$new_{^\\", "liver", "spleen", "failed", "case")  # fmt: skip
    for end in ends:
        assert shown(found, f"{NASTY}{end}"), end
    assert shown(found, "1 picture of cases cannot be shown")
    assert "script" not in found.tags
    assert found.attributes == {"lang", "charset", "name", "content", "class", "alt", "src"}
    assert len(found.links) == 3
    assert all(link.startswith("data:image/png;base64,") for link in found.links)
    for name in filled:
        with pytest.raises(UndefinedError):
            pages.render_page("comparison.html", **{key: value for key, value in filled.items() if key != name})
    table = (tmp_path / "report" / "table.md").read_text(encoding="utf-8")
    assert f"# {NASTY}title" in table


def test_the_page_of_nothing_finished():
    findings = collect(described("base", "new", planned=(RunKey("base", 0),)), [], [])
    found = Page(render_report(findings))
    assert shown(found, "No run is finished")
    assert shown(found, "base, seed 0: not finished")
    assert shown(found, "0 of 1")
    assert not shown(found, "Learning curve")
    assert not shown(found, "Worst cases")


def test_the_order_of_the_rows_changes_nothing():
    runs, cases = joined(rows_of("base", BASE), rows_of("new", EITHER))
    shuffled = [cases[place] for place in np.random.default_rng(0).permutation(len(cases))]
    description = described("base", "new", planar=True)
    assert as_markdown(collect(description, runs, shuffled)) == as_markdown(collect(description, runs, cases))
