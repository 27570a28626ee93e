"""DMPCT on abdominal CT: supervised planes, single-plane self-training and co-training from the same few labels.

    python benchmarks/trainings/btcv_dmpct.py --data ../shared/data/btcv --work runs/btcv --budget 45m

Each draw shuffles the cases: some are labelled, some are kept for testing, the rest are the unlabelled pool, whose
labels are opened for the table of pseudo-labels and for nothing else. One plan is sized once, by `--budget` for the
co-training of a draw or by `--iterations` and the like, and then frozen: every network of every variant and round has
the same iterations, patches and seed. Co-training by the paper's own rule (`--paper`: all that the vote calls
background is taught as background) and self-training start from the very teachers of the co-training. Finished steps
are kept, so that an interrupted benchmark goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

PLANES = ("sagittal", "coronal", "axial")
FUSED = "fused"


def draw(chosen: argparse.Namespace, number: int) -> tuple[Path, Path]:
    """Write the manifest of a draw, and one of the pool with its labels, which only measuring reads."""
    source = json.loads((chosen.data / "dataset_22.json").read_text())
    cases = [
        {key: str((chosen.data / case[key]).resolve()) for key in ("image", "label")} for case in source["training"]
    ]
    random.Random(number).shuffle(cases)
    training, rest = cases[: chosen.labeled], cases[chosen.labeled :]
    held_out, pool = rest[: chosen.test], rest[chosen.test :][: chosen.pool]
    if chosen.use:  # the same cases for testing and, but for the last ones, the same pool
        more = max(chosen.use - len(training), 0)
        training, pool = (training + pool[len(pool) - more :])[: chosen.use], pool[: len(pool) - more]
    head = {"name": "BTCV", "modality": source["modality"], "labels": source["labels"]}
    unlabeled = [{"image": case["image"]} for case in pool]
    folder = chosen.work / f"draw{number}"
    folder.mkdir(parents=True, exist_ok=True)
    manifest, truth = folder / "manifest.json", folder / "pool_truth.json"
    manifest.write_text(json.dumps({**head, "training": training, "unlabeled": unlabeled, "test": held_out}, indent=1))
    truth.write_text(json.dumps({**head, "test": pool}, indent=1))
    return manifest, truth


def medseg(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "medseg", *map(str, arguments)], check=True)


def make_plan(chosen: argparse.Namespace, manifest: Path) -> dict:
    """The one plan of all runs."""
    path = chosen.work / "plan.yaml"
    if not path.exists():
        changes = [f"stages.0.rounds.count={chosen.rounds}", *chosen.set]
        if chosen.iterations:
            changes.append(f"stages.0.schedule.iterations={chosen.iterations}")
        if chosen.width:
            changes.append(f"stages.0.network.width={chosen.width}")
        if chosen.spacing_mm:
            changes.append(f"data.spacing_mm={chosen.spacing_mm}")
        sets = [part for change in changes for part in ("--set", change)]
        budget = ["--budget", chosen.budget] if chosen.budget else []
        medseg("plan", "--task", "dmpct", "--data", manifest, "-o", path, *budget, *sets)
    return yaml.safe_load(path.read_text())


def train(folder: Path, manifest: Path, plan: dict, views: tuple[str, ...], teachers: Path | None = None) -> float:
    """Train, or go on; returns minutes."""
    record = folder.with_suffix(".minutes")
    if record.exists():
        return float(record.read_text())
    stage = plan["stages"][0] | {"views": list(views)}
    data = plan["data"] if len(views) > 1 else plan["data"] | {"view": views[0]}
    pipeline = folder.with_suffix(".yaml")
    pipeline.write_text(yaml.safe_dump(plan | {"stages": [stage], "data": data}))
    if teachers and not folder.exists():  # the same pieces of work: found by their content and not done again
        for view in views:
            shutil.copytree(teachers / "round0" / view, folder / "round0" / view)
    resume = ["--resume"] if (folder / "run.json").exists() else []
    began = time.time()
    medseg("train", "--task", pipeline, "--data", manifest, "--output", folder, *resume)
    minutes = (time.time() - began) / 60
    record.write_text(f"{minutes:.3f}")
    return minutes


def dice(predictions: Path, reference: Path, model: Path, fusion: str | None = None) -> dict[str, float]:
    """Mean Dice, "mean" and per organ; what is missing is predicted."""
    report, section = predictions / "evaluation" / "metrics.json", "test"
    if not report.exists():
        how = ["--fusion", fusion] if fusion else []
        medseg("predict", "-m", model, "-i", reference, "-o", predictions, "--section", section, *how)
        medseg("evaluate", "-p", predictions, "-r", reference, "--section", section, "--no-pictures")
    found = json.loads(report.read_text())
    assert not found["failed"], found["failed"]
    organs = {name: figures["dice"]["mean"] for name, figures in found["classes"].items()}
    return {"mean": found["mean"]["dice"]["mean"], **organs}


def of_draw(number: int, chosen: argparse.Namespace) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """All rows of a draw: name -> Dice; and minutes of each training."""
    manifest, truth = draw(chosen, number)
    plan = make_plan(chosen, manifest)
    folder = chosen.work / f"draw{number}"
    run, rows = folder / "dmpct", {}
    minutes = {"dmpct": train(run, manifest, plan, PLANES)}
    for stage in range(chosen.rounds + 1):
        rows |= of_round(folder, "dmpct", stage, truth if stage < chosen.rounds else None)
    if chosen.paper:
        minutes["paper"] = train(folder / "paper", manifest, by_the_paper(plan), PLANES, teachers=run)
        for stage in range(1, chosen.rounds + 1):
            rows |= of_round(folder, "paper", stage, truth if stage < chosen.rounds else None)
    for view in chosen.self_training:
        for kind, its in {"self": plan, **({"self_paper": by_the_paper(plan)} if chosen.paper else {})}.items():
            alone = folder / f"{kind}_{view}"
            minutes[alone.name] = train(alone, manifest, its, (view,), teachers=run)
            rows[f"{kind}-training, {view}"] = dice(folder / "test" / alone.name, manifest, alone / "bundle")
    for view in chosen.ceiling:
        rows[f"all labels known, {view}"] = ceiling(folder, manifest, truth, plan, view)
    return rows, minutes


def by_the_paper(plan: dict) -> dict:
    """The same plan without a rule of ours for pseudo-labels."""
    stage = plan["stages"][0]
    options = {key: value for key, value in stage["method"]["options"].items() if key != "background_confidence"}
    return plan | {"stages": [stage | {"method": stage["method"] | {"options": options}}]}


def of_round(folder: Path, variant: str, number: int, truth: Path | None) -> dict[str, dict[str, float]]:
    """Rows of a round of co-training: the planes and their vote, on the test cases and, with `truth`, on the pool."""
    rows, title = {}, f"{variant} round {number}" if number else "supervised"
    run, names = folder / variant, "" if variant == "dmpct" else f"{variant}_"
    for view in (*PLANES, FUSED):
        model = run / f"round{number}" / ("" if view == FUSED else view) / "bundle"
        rows[f"{title}, {view}"] = dice(
            folder / "test" / f"{names}round{number}_{view}", folder / "manifest.json", model
        )
        if truth:  # the vote itself, with what students leave out of learning
            found = dice(folder / "pool" / f"{names}round{number + 1}_{view}", truth, model)
            rows[f"pseudo-labels {names}{number + 1}, {view}"] = found
    model, predicted = run / f"round{number}" / "bundle", folder / "test" / f"any_{names}round{number}"
    rows[f"{title}, fused by any"] = dice(predicted, folder / "manifest.json", model, fusion="any")
    return rows


def ceiling(folder: Path, manifest: Path, truth: Path, plan: dict, view: str) -> dict[str, float]:
    """What a plane would reach if the labels of the unlabelled cases were known: no pseudo-label can do better."""
    known = json.loads(manifest.read_text())
    known["training"] += json.loads(truth.read_text())["test"]
    known["unlabeled"] = []
    told = folder / "all_labels.json"
    told.write_text(json.dumps(known, indent=1))
    without = plan | {"stages": [plan["stages"][0] | {"rounds": 0}]}
    train(folder / f"all_{view}", told, without, (view,))
    return dice(folder / "test" / f"all_{view}", told, folder / f"all_{view}" / "bundle")


def table(rows: dict[str, list[dict[str, float]]]) -> Iterator[str]:
    """Markdown: mean and standard deviation over the draws."""
    columns = list(next(iter(rows.values()))[0])
    yield f"| labels by | draws | {' | '.join(columns)} |"
    yield "|---" * (len(columns) + 2) + "|"
    for name, found in rows.items():
        cells = [_spread([one[column] for one in found]) for column in columns]
        yield f"| {name} | {len(found)} | {' | '.join(cells)} |"


def _spread(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    return f"{statistics.mean(known):.3f}" + (f" ± {statistics.stdev(known):.3f}" if len(known) > 1 else "")


def main() -> None:
    """Run what is missing, print the tables and keep them in `WORK/results.md`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/btcv"))
    parser.add_argument("--draws", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--labeled", type=int, default=6)
    parser.add_argument("--test", type=int, default=6)
    parser.add_argument("--pool", type=int, help="most unlabelled cases")
    parser.add_argument("--use", type=int, help="labelled cases of each draw: the first ones, or more from the pool")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--budget", help="time of the co-training of one draw, such as 45m; the plan is made to fit")
    parser.add_argument("--iterations", type=int, help="of each network, instead of or beside --budget")
    parser.add_argument("--width", type=int, help="channels of the network's first level")
    parser.add_argument("--spacing-mm", help="such as [4.8, 4.8, 6]")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="further settings of the plan")
    parser.add_argument("--paper", action="store_true", help="also co-train by the paper's own rule")
    parser.add_argument("--self-training", nargs="*", default=PLANES, choices=PLANES, help="planes that train alone")
    parser.add_argument("--ceiling", nargs="*", default=(), choices=PLANES, help="planes also trained with all labels")
    parser.add_argument("--threads", type=int, help="of every step")
    chosen = parser.parse_args()
    if chosen.threads:
        os.environ["OMP_NUM_THREADS"] = str(chosen.threads)
    rows: dict[str, list[dict[str, float]]] = {}
    minutes: dict[str, list[float]] = {}
    for number in chosen.draws:
        found, taken = of_draw(number, chosen)
        for name, figures in found.items():
            rows.setdefault(name, []).append(figures)
        for name, value in taken.items():
            minutes.setdefault(name, []).append(value)
        test = {name: found for name, found in rows.items() if not name.startswith("pseudo")}
        pool = {name: found for name, found in rows.items() if name.startswith("pseudo")}
        lines = ["Dice on the test cases", "", *table(test), "", "Dice on the unlabelled pool", "", *table(pool), ""]
        lines += [f"minutes, {name}: {', '.join(f'{m:.1f}' for m in taken)}" for name, taken in minutes.items()]
        (chosen.work / "results.md").write_text("\n".join(lines) + "\n")
        print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
