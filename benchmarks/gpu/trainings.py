"""Part 2: `dtc_la` in the paper's setting beside supervised training with the same 16 labels, as far as the time goes.

Both get the same number of steps of four patches, half of the time each. What was finished or begun by an earlier call
in the same work folder is gone on with.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

from journal import Journal, replace
from loading import TOGETHER, pace
from pieces import evaluate, predict, train
from scans import INDEX, generate, unpack
from setting import Setting
from tasks import SUPERVISED, volume_task

TABLE = "left atrium, 16 labelled scans, V-Net, the paper's patches: mean over the test scans"
FIGURES = ("dice", "hd95_mm", "asd_mm")
METHODS: dict[str, tuple[str, ...]] = {"dtc_la": (), "supervised": SUPERVISED}
AROUND_SECONDS = 35
"""Of a training: start, preprocessing, prediction and measures of the test scans."""
USED = 0.9
"""Part of the time for steps that the plan fills: a pace is never kept exactly."""
PACKED = Path(__file__).parent / "pack" / "scans"


def plan(setting: Setting) -> None:
    """Decide the steps of both trainings, once: a part that goes on keeps its plan."""
    scans(setting)  # without them there is nothing to plan for
    path = setting.work / "plan.json"
    if not path.exists():
        paces = {name: step_seconds(setting, name) for name in METHODS}
        each = (setting.deadline - time.time()) / len(METHODS) - AROUND_SECONDS
        fitting = int(USED * each / max(paces.values()))
        iterations = max(1, min(setting.sizes.iterations, fitting))
        decided = {"iterations": iterations, "of the paper's": 6000, "s for the steps of each": each}
        replace(path, json.dumps(decided | {f"s per step, {name}": pace for name, pace in paces.items()}))
    setting.journal.add("plan", **json.loads(path.read_text()))


def step_seconds(setting: Setting, name: str) -> float:
    """From part 1's results where they were made on the same device, else of 20 steps now."""
    for folder in (setting.out, setting.work.parent):
        part1 = Journal(folder, "part1")
        devices = [row["device"] for row in part1.rows("machine") if "device" in row]
        here = [row["device"] for row in setting.journal.rows("machine") if "device" in row]
        known = [row["s per step"] for row in part1.rows(TOGETHER) if row["training"] == name]
        if known and devices == here and not setting.tiny:
            return known[-1]
    steps = setting.sizes.loaded if setting.tiny else 20
    return pace(setting, name, volume_task(setting, METHODS[name]), steps)


def dtc(setting: Setting) -> None:
    """Dual-task consistency with the unlabelled scans."""
    one(setting, "dtc_la")


def supervised(setting: Setting) -> None:
    """The labelled scans alone."""
    one(setting, "supervised")


def one(setting: Setting, name: str) -> None:
    """Train, predict the test scans and measure, or go on with what an earlier call began."""
    folder = setting.work / name
    record = setting.work / f"{name}.json"
    if not record.exists():
        began = time.monotonic()
        try:
            finish(setting, name, folder)
        except KeyboardInterrupt:
            setting.journal.note(name, f"stopped {reached(folder)}; run the part again to go on")
            return
        cases = measured(folder, scans(setting))
        replace(record, json.dumps({"seconds": time.monotonic() - began, "cases": cases}))
    found = json.loads(record.read_text())
    iterations = json.loads((setting.work / "plan.json").read_text())["iterations"]
    means = {figure: mean_of([case[figure] for case in found["cases"].values()]) for figure in FIGURES}
    dice = [case["dice"] for case in found["cases"].values()]
    setting.journal.add(
        TABLE,
        training=name,
        steps=iterations,
        **{"s, with tests": found["seconds"]},
        **means,
        **{"worst Dice": min(dice), "scans": len(dice)},
        **{"without a surface": sum(case["asd_mm"] is None for case in found["cases"].values())},
    )


def scans(setting: Setting) -> Path:
    """The manifest: the packed scans, or generated ones in a dry run.

    Raises:
        FileNotFoundError: no packed scans.
    """
    if setting.tiny:
        return generate(setting.work / "scans", setting.sizes.scan)
    if not (PACKED / INDEX).exists():
        raise FileNotFoundError(f"{PACKED / INDEX}: not there; pack.sh makes it")
    return unpack(PACKED, setting.work / "la")


def finish(setting: Setting, name: str, folder: Path) -> None:
    """Train and predict, each from where it stands."""
    manifest = scans(setting)
    iterations = json.loads((setting.work / "plan.json").read_text())["iterations"]
    amp = "bf16" if setting.device.type == "cuda" else "auto"
    overrides = [f"name={name}", f"stages.0.schedule.iterations={iterations}", f"stages.0.schedule.amp={amp}"]
    overrides += METHODS[name]
    if setting.tiny:
        sizes = setting.sizes
        overrides += [f"stages.0.network.width={sizes.width}", f"data.patch={list(sizes.patch)}"]
        overrides += ["data.spacing_mm=[1, 1, 1]", "data.overlap=0.25"]
    train("dtc_la", manifest, folder, overrides=overrides, resume=(folder / "run.json").exists())
    predict(folder, manifest, folder / "prediction")


def measured(folder: Path, manifest: Path) -> dict[str, dict[str, float | None]]:
    """Case -> figure -> value; distances of a case without a surface are None."""
    report = evaluate(folder / "prediction", manifest, pictures=False)
    organ = next(iter(report["classes"]))
    return {case["case"]: {figure: case["classes"][organ][figure] for figure in FIGURES} for case in report["cases"]}


def mean_of(values: list[Any]) -> float | None:
    """Of those that there are."""
    there = [value for value in values if value is not None]
    return statistics.mean(there) if there else None


def reached(folder: Path) -> str:
    """Where a training stands, by its log."""
    log = folder / "metrics.jsonl"
    if not log.exists():
        return "before the first step"
    lines = log.read_text(encoding="utf-8").splitlines()
    return f"after step {json.loads(lines[-1])['iteration']}" if lines else "before the tenth step"


def compare(setting: Setting) -> None:
    """What the unlabelled scans were worth, case by case; only once both trainings are done."""
    records = {name: setting.work / f"{name}.json" for name in METHODS}
    if not all(record.exists() for record in records.values()):
        setting.journal.note("comparison", "needs both trainings; run the part again")
        return
    cases = {name: json.loads(record.read_text())["cases"] for name, record in records.items()}
    gains = [cases["dtc_la"][case]["dice"] - cases["supervised"][case]["dice"] for case in cases["dtc_la"]]
    setting.journal.add(
        "dtc_la less supervised, Dice",
        mean=statistics.mean(gains),
        median=statistics.median(gains),
        **{"scans that are better": sum(gain > 0 for gain in gains), "scans": len(gains), "seeds": 1},
    )
