"""medseg beside nnU-Net and PyMIC: the same cases, the same minutes of one core, judged by the same measures.

    python benchmarks/peers/run.py --data la/compare_16.json --minutes 15 --seeds 0,1,2 -o runs/peers_la

`--peers pymic` leaves nnU-Net out. Each peer has an environment of its own, made on the first call (`--environments`),
and is given the resolution of our plan and a narrow network (`WIDTH_OF_A_PEER`), without which it is slower by far than
a CPU bears; our network has the width that our plan chooses. Wants an otherwise idle core: training is timed by the
clock. nnU-Net takes no seed: each of its runs is another draw. PyMIC is compared on volumes only. What is finished is
not done again. Prints and writes `table.md`, whose last column has what a user writes before the first training.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nnunet
import pymic_peer
import yaml

MEASURES = {"dice": "Dice", "hd95_mm": "HD95 mm"}
WIDTH_OF_A_PEER = 8
MEMORY_OF_A_PEER_GIB = 0.7


def main() -> None:
    options = _options()
    options.output.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in options.seeds:
        ours = options.output / f"medseg_{seed}"
        plan = _once(ours / "plan.json", partial(_plan_ours, options, ours))
        if plan["planar"] and "pymic" in options.peers:
            pymic_peer.refuse(f"{options.data}: is trained in slices, PyMIC is compared on volumes: --peers nnunet")
        rows.append(_once(ours / "row.json", partial(_run_ours, options, ours, seed)))
        for name in options.peers:
            theirs = options.output / f"{name}_{seed}"
            rows.append(_once(theirs / "row.json", partial(PEERS[name], options, theirs, plan, seed)))
    _write_table(options, rows)


def _plan_ours(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Fix our plan for these minutes of this core."""
    file = folder / "plan.yaml"
    _medseg(
        "plan",
        "--task",
        "supervised",
        "--data",
        str(options.data),
        "--budget",
        f"{options.minutes:g}m",
        "-o",
        str(file),
    )
    data = yaml.safe_load(file.read_text())["data"]
    return {"spacing_mm": data["spacing_mm"], "planar": data["view"] != "volume"}


def _run_ours(options: argparse.Namespace, folder: Path, seed: int) -> dict[str, Any]:
    run, predictions = folder / "run", folder / "predictions"
    training = _measured(
        "train", "--task", str(folder / "plan.yaml"), "--data", str(options.data), "--set", f"seed={seed}",
        "-o", str(run), "--resume",
    )  # fmt: skip
    prediction = _measured(
        "predict", "-m", str(run), "-i", str(options.data), "--section", "test", "-o", str(predictions)
    )
    return {"who": "medseg supervised", "seed": seed, **_seconds(training, prediction), **_scores(options, predictions)}


def _run_nnunet(options: argparse.Namespace, folder: Path, plan: dict[str, Any], _: int) -> dict[str, Any]:
    environment = options.environments / "nnunet"
    _make_environment(environment, nnunet.PACKAGES)
    peer = nnunet.NnUNet(
        environment, folder, spacing_mm=plan["spacing_mm"], width=WIDTH_OF_A_PEER, planar=plan["planar"],
        memory_gib=MEMORY_OF_A_PEER_GIB,
    )  # fmt: skip
    peer.convert(options.data)
    _once(folder / "plan.json", peer.plan)
    training = _timed(lambda: peer.train(options.minutes * 60))
    prediction = _timed(lambda: peer.predict(folder / "predictions"))
    return {"who": "nnU-Net", **_seconds(training, prediction), **_scores(options, folder / "predictions")}


def _run_pymic(options: argparse.Namespace, folder: Path, plan: dict[str, Any], seed: int) -> dict[str, Any]:
    environment = options.environments / "pymic"
    _make_environment(environment, pymic_peer.PACKAGES)
    peer = pymic_peer.PyMIC(environment, folder, spacing_mm=plan["spacing_mm"], width=WIDTH_OF_A_PEER, seed=seed)
    peer.convert(options.data)
    training = _timed(lambda: peer.train(options.minutes * 60))
    prediction = _timed(lambda: peer.predict(folder / "predictions"))
    scores = _scores(options, folder / "predictions")
    return {"who": "PyMIC supervised", "seed": seed, **_seconds(training, prediction), **scores}


PEERS = {"nnunet": _run_nnunet, "pymic": _run_pymic}
SETUP = {
    "medseg supervised": "1 command",  # medseg data init
    "nnU-Net": f"{nnunet.SETUP_LINES} lines",
    "PyMIC supervised": f"{pymic_peer.SETUP_LINES} lines",
}


def _scores(options: argparse.Namespace, predictions: Path) -> dict[str, float]:
    """Mean over the cases of the mean over the structures."""
    _medseg(
        "evaluate", "-p", str(predictions), "-r", str(options.data), "--section", "test", "--no-pictures",
        "-o", str(predictions.parent / "evaluation"),
    )  # fmt: skip
    with (predictions.parent / "evaluation" / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    found = {}
    for measure in MEASURES:
        values = [float(row[measure]) for row in rows if row[measure]]
        found[measure] = statistics.fmean(values)
        found[f"{measure}_missing"] = len(rows) - len(values)
    return found


def _write_table(options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    lines = [
        f"{options.data.name}, {options.minutes:g} minutes of one core, seeds {', '.join(map(str, options.seeds))}", "",
        "| who | Dice | HD95 mm | not defined | training, CPU minutes | prediction, s | set-up |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for who in dict.fromkeys(row["who"] for row in rows):
        own = [row for row in rows if row["who"] == who]
        dice, hd95 = (_spread([row[measure] for row in own]) for measure in MEASURES)
        missing = sum(row["hd95_mm_missing"] for row in own)
        minutes = statistics.fmean(row["training_cpu_s"] for row in own) / 60
        seconds = statistics.fmean(row["prediction_s"] for row in own)
        figures = f"{dice[0]:.3f}{dice[1]} | {hd95[0]:.1f} | {missing} | {minutes:.1f} | {seconds:.0f}"
        lines.append(f"| {who} | {figures} | {SETUP[who]} |")
    text = "\n".join(lines) + "\n"
    (options.output / "table.md").write_text(text)
    print(text)


def _spread(values: list[float]) -> tuple[float, str]:
    if len(values) == 1:
        return values[0], ""
    return statistics.fmean(values), f" ± {statistics.stdev(values):.3f}"


# ---- commands


def _medseg(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "medseg", *arguments], check=True)


def _measured(*arguments: str) -> dict[str, float]:
    return _timed(lambda: _medseg(*arguments))


def _timed(work: Callable[[], None]) -> dict[str, float]:
    """Seconds by the clock, and of processors, of what a call starts."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"clock": time.monotonic() - started, "cpu": used}


def _seconds(training: dict[str, float], prediction: dict[str, float]) -> dict[str, float]:
    return {
        "training_s": training["clock"], "training_cpu_s": training["cpu"], "prediction_s": prediction["clock"],
    }  # fmt: skip


def _make_environment(folder: Path, packages: tuple[str, ...]) -> None:
    """An environment with the same torch as ours and a peer's packages."""
    made = folder / "packages.txt"
    if made.exists() and made.read_text() == "\n".join(packages):
        return
    import torch

    if not (folder / "bin" / "python").exists():
        venv.create(folder, with_pip=True)
    own = torch.__version__.partition("+")[0]
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-compile"]
    # in one call: else a peer's torchvision brings the newest torch
    subprocess.run([*pip, f"torch=={own}", *packages], check=True)
    made.write_text("\n".join(packages))


def _once(file: Path, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `work` gives, kept in a file: done once."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        content = work()
        file.write_text(json.dumps(content, indent=1))
    return json.loads(file.read_text())


def _peers(text: str) -> list[str]:
    unknown = sorted(set(text.split(",")) - set(PEERS))
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(map(repr, unknown))}: the peers are {', '.join(PEERS)}")
    return [name for name in PEERS if name in text.split(",")]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="manifest with labelled test cases")
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--peers", type=_peers, default=list(PEERS), help="nnunet, pymic, or both with a comma")
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0])
    parser.add_argument("--environments", type=Path, default=Path("runs/peer_environments"))
    parser.add_argument("-o", "--output", type=Path, required=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return parser.parse_args()


if __name__ == "__main__":
    main()
