"""DTC against supervised training on left-atrium MR: same network, iterations, patches and seeds.

    python benchmarks/trainings/la_dtc.py --data ../shared/data/la --work runs/la

16 labelled cases; of the 24 unlabelled ones the first 12 (by name) train, the other 12 test. The plan is sized once
by `--budget` for DTC and then frozen for every run. Finished runs are kept, so that an interrupted benchmark goes on
where it was. Prints a Markdown table: mean and standard deviation over the seeds of the mean over the test cases.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import yaml

VARIANTS = {
    # the loss on labelled patches is DTC's soft Dice in all variants
    "supervised": {
        "method": {"name": "supervised", "options": {"cross_entropy": 0.0}},
        "batch": {"labeled": 4},
    },
    # two, as many labelled ones as DTC's
    "supervised_2": {"method": {"name": "supervised", "options": {"cross_entropy": 0.0}}, "batch": {"labeled": 2}},
    "dtc_no_unlabeled": {"method": {"name": "dtc"}, "batch": {"labeled": 4}},
    "dtc": {"method": {"name": "dtc"}, "batch": {"labeled": 2, "unlabeled": 2}},
}
# the paper's network and optimiser, which the general pipeline replaces by ones that learn sooner
PAPER = (
    "stages.0.network.name=vnet",
    "stages.0.schedule.optimizer=sgd",
    "stages.0.schedule.lr=0.01",
    "stages.0.schedule.decay=step",
)
FIGURES = ("dice", "hd95_mm", "asd_mm")


def split(data: Path, work: Path) -> Path:
    """Write the fixed split as a manifest outside the repository."""
    source = json.loads((data / "dataset_16.json").read_text())
    pool = sorted(case["image"] for case in source["unlabeled"])
    image = {name: str((data / name).resolve()) for name in pool}
    label = {name: str((data / name.replace("images", "labels")).resolve()) for name in pool}
    training = [{key: str((data / case[key]).resolve()) for key in ("image", "label")} for case in source["training"]]
    manifest = {
        "name": "LA",
        "modality": source["modality"],
        "labels": source["labels"],
        "training": training,
        "unlabeled": [{"image": image[name]} for name in pool[:12]],
        "test": [{"image": image[name], "label": label[name]} for name in pool[12:]],
    }
    path = work / "la_16_12_12.json"
    path.write_text(json.dumps(manifest, indent=1))
    return path


def medseg(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "medseg", *arguments], check=True)


def run(work: Path, manifest: Path, plan: dict, variant: str, seed: int) -> dict:
    """Train, predict and evaluate once, or read what an earlier call did."""
    folder = work / f"{variant}-{seed}"
    record = folder / "record.json"
    if record.exists():
        return json.loads(record.read_text())
    stage = plan["stages"][0] | {"method": VARIANTS[variant]["method"]}
    stage["schedule"] = stage["schedule"] | {"batch": VARIANTS[variant]["batch"]}
    pipeline = work / f"{variant}-{seed}.yaml"
    pipeline.write_text(yaml.safe_dump(plan | {"name": variant, "seed": seed, "stages": [stage]}))
    began = time.time()
    resume = ["--resume"] if (folder / "run.json").exists() else []
    medseg("train", "--task", str(pipeline), "--data", str(manifest), "--output", str(folder), *resume)
    minutes = (time.time() - began) / 60
    medseg("predict", "-m", str(folder), "-i", str(manifest), "-o", str(folder / "prediction"))
    medseg("evaluate", "-p", str(folder / "prediction"), "-r", str(manifest))
    report = json.loads((folder / "prediction" / "evaluation" / "metrics.json").read_text())
    cases = {case["case"]: case["classes"]["left atrium"] for case in report["cases"]}
    found: dict = {name: statistics.mean(case[name] for case in cases.values()) for name in FIGURES}
    found |= {"minutes": minutes, "per_case_dice": {name: case["dice"] for name, case in cases.items()}}
    record.write_text(json.dumps(found, indent=1))
    return found


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/la"))
    parser.add_argument("--budget", default="15m")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=["supervised", "dtc"])
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    manifest = split(chosen.data, chosen.work)
    plan_file = chosen.work / "plan.yaml"
    if not plan_file.exists():
        paper = [part for change in PAPER for part in ("--set", change)]
        medseg(
            "plan", "--task", "dtc", "--data", str(manifest), "-o", str(plan_file), "--budget", chosen.budget, *paper
        )
    plan = yaml.safe_load(plan_file.read_text())
    rows: dict[str, list[dict]] = {}
    for seed in chosen.seeds:
        for variant in chosen.variants:
            rows.setdefault(variant, []).append(run(chosen.work, manifest, plan, variant, seed))
    print(f"| training | seeds | {' | '.join(FIGURES)} | minutes |")
    print("|---" * (len(FIGURES) + 3) + "|")
    for variant, found in rows.items():
        cells = [_spread([one[name] for one in found]) for name in (*FIGURES, "minutes")]
        print(f"| {variant} | {len(found)} | {' | '.join(cells)} |")


def _spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.4g} ± {deviation:.2g}"


if __name__ == "__main__":
    main()
