"""Cores are those that the process may use, not those of the machine."""

from __future__ import annotations

import os
import re
from pathlib import Path

from medseg.cores import usable_cores
from medseg.workflows.consensus.collect_studies import Item
from medseg.workflows.consensus.process_pool import fitting_jobs
from medseg.workflows.reports.formatting import describe_computer

PACKAGE = Path(__file__).resolve().parents[3] / "medseg"


def test_a_process_that_is_bound_to_one_core_counts_one(one_core):
    assert usable_cores() == 1
    absent = Item("study", (), (Path("absent.nii.gz"),), ("anna",))  # so that memory does not decide
    assert fitting_jobs([absent]) == 1
    expected = "1 core" if os.cpu_count() == 1 else f"1 of {os.cpu_count()} cores"
    assert f", {expected}, " in describe_computer()


def test_a_free_process_counts_all_that_it_is_given():
    assert usable_cores() == len(os.sched_getaffinity(0)) <= (os.cpu_count() or 1)


def test_cores_are_counted_in_one_place():
    counting = re.compile(r"cpu_count\(|sched_getaffinity\(")
    found = {p.relative_to(PACKAGE).as_posix() for p in PACKAGE.rglob("*.py") if counting.search(p.read_text("utf-8"))}
    assert found == {"cores.py", "workflows/reports/formatting.py"}  # the page tells the machine's cores too
