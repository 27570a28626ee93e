"""DTC on abdominal CT with the paper's network and optimiser, and with those of the shipped pipeline, each by itself.

"still" means without dropout. `vnet` here has one convolution more than the paper's, because its outputs (14 classes,
13 distances) are more than the 8 channels of its first level.

    python benchmarks/trainings/btcv_networks.py --data ../shared/data/btcv --work runs/networks

6 labelled CT with 13 organs; of the 16 unlabelled ones the first 8 train and the last 4 test. Every run has the same
loss (`--task dtc`), spacing, patches, iterations and seeds. Finished runs are kept. Prints a Markdown table: mean and
standard deviation over the seeds of the mean Dice, and how many of the organs were found at all (Dice above 0.1).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

SGD = ("optimizer=sgd", "lr=0.01")
ADAMW = ("optimizer=adamw", "lr=0.002")
FASTER = ("optimizer=adamw", "lr=0.005")
STILL = "stages.0.network.options.dropout=0.0"
RESIDUAL = "stages.0.network.options.residual=true"
INSTANCE = "stages.0.network.options.norm=instance"
VARIANTS = {
    "unet, adamw": ("unet", ADAMW),
    "vnet, adamw": ("vnet", ADAMW),
    "still vnet, adamw": ("vnet", ADAMW, STILL),
    "still residual vnet, adamw": ("vnet", ADAMW, STILL, RESIDUAL),
    "still residual vnet, faster adamw": ("vnet", FASTER, STILL, RESIDUAL),
    "still residual vnet with instance norm, adamw": ("vnet", ADAMW, STILL, RESIDUAL, INSTANCE),
    "unet, sgd": ("unet", SGD),
    "vnet, sgd": ("vnet", SGD),
}


def split(data: Path, work: Path) -> Path:
    """Write the fixed split as a manifest outside the repository."""
    source = json.loads((data / "dataset_6.json").read_text())
    training = [{key: str((data / case[key]).resolve()) for key in ("image", "label")} for case in source["training"]]
    pool = [str((data / case["image"]).resolve()) for case in source["unlabeled"]]
    test = [{"image": image, "label": image.replace("/images/", "/labels/")} for image in pool[-4:]]
    head = {key: source[key] for key in ("modality", "labels")}
    path = work / "btcv.json"
    content = {
        "name": "BTCV",
        **head,
        "training": training,
        "unlabeled": [{"image": i} for i in pool[:8]],
        "test": test,
    }
    path.write_text(json.dumps(content, indent=1))
    return path


def run(manifest: Path, folder: Path, changes: list[str]) -> dict:
    """Train, predict and evaluate once, or read what an earlier call did."""
    report = folder / "prediction" / "evaluation" / "metrics.json"
    if not report.exists():
        sets = [part for change in changes for part in ("--set", change)]
        resume = ["--resume"] if (folder / "run.json").exists() else []
        train = ["train", "--task", "dtc", "--data", manifest, "--output", folder, *sets, *resume]
        predict = ["predict", "-m", folder, "-i", manifest, "-o", folder / "prediction"]
        evaluate = ["evaluate", "-p", folder / "prediction", "-r", manifest, "--no-pictures"]
        for command in (train, predict, evaluate):
            subprocess.run([sys.executable, "-m", "medseg", *map(str, command)], check=True)
    return json.loads(report.read_text())


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/networks"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--iterations", type=int, default=500)
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    manifest = split(chosen.data, chosen.work)
    print("| network, optimiser | seeds | mean Dice | organs found of 13 |\n|---|---|---|---|")
    for variant in chosen.variants:
        network, settings, *more = VARIANTS[variant]
        size = ["data.spacing_mm=[4.8,4.8,4.8]", "data.patch=[48,48,40]", "stages.0.network.width=8"]
        size += [f"stages.0.network.name={network}", f"stages.0.schedule.iterations={chosen.iterations}"]
        size += [*(f"stages.0.schedule.{setting}" for setting in settings), *more]
        dice, organs = [], []
        for seed in chosen.seeds:
            name = variant.replace(", ", "-").replace(" ", "_")
            found = run(manifest, chosen.work / f"{name}-{seed}", [*size, f"seed={seed}"])
            classes = [c["dice"]["mean"] for c in found["classes"].values()]
            dice.append(statistics.mean(classes))
            organs.append(sum(value > 0.1 for value in classes))
        deviation = statistics.stdev(dice) if len(dice) > 1 else float("nan")
        print(f"| {variant} | {len(dice)} | {statistics.mean(dice):.3f} ± {deviation:.3f} | {organs} |", flush=True)


if __name__ == "__main__":
    main()
