"""The job script of docs/cluster.md, with a stand-in for Slurm: it stops, is put into the queue again, and finishes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from document_data import write_scans
from documents import blocks_of
from forking import folder as folder_of_programs

DOCUMENT = "docs/cluster.md"
SMALL = "--set stages.0.schedule.iterations=20 --set stages.0.network.width=4 --set data.spacing_mm=[16,16,20]"
SRUN = """#!/bin/bash
"$@" & child=$!
if [ -n "$PREEMPTED" ]; then
  until [ -e "$PREEMPTED" ] || ! kill -0 $child 2>/dev/null; do sleep 0.02; done
  kill -TERM $child
fi
wait $child
"""
SCONTROL = '#!/bin/bash\necho "$@" >> requeued\n'


def script(name: str) -> str:
    """The job script of that name, at a size that takes seconds."""
    found = [block.text for block in blocks_of(DOCUMENT) if f"--job-name={name}\n" in block.text]
    assert len(found) == 1
    return found[0].replace("--folds 5", "--folds 2").replace("--budget 2h", SMALL)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Path:
    """A folder with scans, a manifest, the scripts, and programs called srun and scontrol."""
    folder = tmp_path_factory.mktemp("cluster")
    write_scans(folder)
    (folder / "programs").mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (folder / "programs" / name).write_text(text)
        (folder / "programs" / name).chmod(0o755)
    (folder / "folds.sh").write_text(script("folds"))
    made = bash(folder, "medseg data init my_scans/ --output my_scans/manifest.json --modality CT")
    assert made.returncode == 0, made.stderr
    return folder


def bash(folder: Path, command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    programs = os.pathsep.join([str(folder / "programs"), str(folder_of_programs()), os.environ["PATH"]])
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=300,
        env=os.environ | {"PATH": programs, "SLURM_JOB_ID": "17", **variables},
    )  # fmt: skip


@pytest.mark.slow
def test_a_fold_that_is_preempted_is_put_into_the_queue_again_and_goes_on(cluster):
    checkpoint = "runs/folds/fold0/last.pt"
    stopped = bash(cluster, "bash folds.sh", SLURM_ARRAY_TASK_ID="0", PREEMPTED=checkpoint)
    assert stopped.returncode == 143, stopped.stderr
    assert "there is no run to continue; a new one begins" in stopped.stderr + stopped.stdout
    assert "of 20 iterations, saved; continue with: " in stopped.stderr
    assert (cluster / "requeued").read_text() == "requeue 17\n"
    assert not (cluster / "runs/folds/fold0/bundle/configs").exists()
    done = bash(cluster, "bash folds.sh", SLURM_ARRAY_TASK_ID="0")
    assert done.returncode == 0, done.stderr
    assert (cluster / "requeued").read_text() == "requeue 17\n", "what is finished is not queued again"

    before = (cluster / "runs/folds/fold0/bundle/models/model.pt").read_bytes()
    (collect,) = [line for block in blocks_of(DOCUMENT) for line in block.text.splitlines() if "--fold all" in line]
    collected = bash(cluster, collect.replace("--folds 5", "--folds 2").replace("--budget 2h", SMALL))
    assert collected.returncode == 0, collected.stderr
    assert (cluster / "runs/folds/fold0/bundle/models/model.pt").read_bytes() == before, "it is not trained again"
    log = (cluster / "runs/folds/fold0/metrics.jsonl").read_text().splitlines()
    trained = [json.loads(line)["iteration"] for line in log if json.loads(line)["kind"] == "train"]
    assert trained == [10, 20]
    assert (cluster / "runs/folds/postprocessing.json").is_file(), "all folds choose together"
