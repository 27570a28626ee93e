"""Commands that are killed (SIGKILL) at random moments and called again: the result is that of the undisturbed command.

    python benchmarks/robustness/kill_runs.py --count 50 --seed 0

Each is killed once in a new folder, at a moment drawn from the time that the undisturbed command took, and called again
until it is done. Compared are the bytes of what it made, and that nothing half written is left.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "support"))

from models import make_bundle, make_image
from raters import write_study
from tiny import write_dataset

SETTINGS = (
    "stages.0.schedule.iterations=12", "stages.0.network.width=4", "stages.0.schedule.workers=1",
    "stages.0.schedule.validate_every=4", "data.patch=[16,16,16]",
)  # fmt: skip


class Command(NamedTuple):
    """What is killed.

    Attributes:
        words: of the command, without its output folder.
        again: words that are added when it is called again.
        products: patterns of the files that are compared.
    """

    words: tuple[str, ...]
    again: tuple[str, ...]
    products: tuple[str, ...]


def commands(place: Path) -> dict[str, Command]:
    """The three commands on small generated data."""
    data = write_dataset(place / "data")
    model = make_bundle(place / "model" / "bundle").parent
    for number in range(3):
        make_image(place / "images" / f"case{number}.nii.gz", seed=number)
    for number in range(4):
        image, raters = write_study(place / "made", seed=number)
        for rater, path in zip(("anna", "bob", "cleo"), raters, strict=True):
            target = place / "studies" / "labels" / rater / f"case{number}.nii.gz"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, target)
        shutil.move(image, place / "studies" / f"case{number}.nii.gz")
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    train = ("train", "--task", "supervised", "--data", str(data), "--device", "cpu", *settings)
    predict = ("predict", "-m", str(model), "-i", str(place / "images"), "--device", "cpu")
    consensus = ("consensus", "--studies", str(place / "studies"), "--jobs", "1", "--no-report")
    return {
        "train": Command(train, ("--resume",), ("bundle/models/model.pt", "bundle/configs/*.json")),
        "predict": Command(predict, (), ("*.nii.gz",)),
        "consensus": Command(consensus, (), ("*/*.nii.gz", "*/raters.csv")),
    }


def start(command: Command, output: Path, *more: str) -> subprocess.Popen[bytes]:
    """The command in a session of its own, so that its workers are killed with it."""
    words = [sys.executable, "-m", "medseg", *command.words, "-o", str(output), *more]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)


def digests(output: Path, patterns: Sequence[str]) -> dict[str, str]:
    """SHA-256 of the products by their names."""
    found = {}
    for pattern in patterns:
        for path in sorted(output.glob(pattern)):
            found[str(path.relative_to(output))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def kill_and_resume(command: Command, output: Path, seconds: float, wanted: dict[str, str]) -> str:
    """What came of one kill after so many seconds."""
    process = start(command, output)
    try:
        process.wait(seconds)
        killed = False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        killed = True
    process.communicate()
    begun = output.exists()
    again = start(command, output, *(command.again if begun else ()))
    _, told = again.communicate(timeout=600)
    if again.returncode:
        print(f"after {seconds:.2f} s: {told.decode(errors='replace')[-300:]}", file=sys.stderr)
        return "refused"
    if digests(output, command.products) != wanted:
        return "different"
    if [left for left in output.rglob(".*.tmp") if left.exists()]:
        return "left something"
    return "the same" if killed else "too late to kill"


def main() -> None:
    """Print counts for each command; exits with 1 if one came out otherwise than undisturbed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50, help="kills, shared out among the commands")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("train", "predict", "consensus"))
    options = parser.parse_args()
    is_good = True
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        chosen = {name: each for name, each in commands(place).items() if options.only in (None, name)}
        for number, (name, command) in enumerate(chosen.items()):
            began = time.monotonic()
            undisturbed = start(command, place / name)
            _, told = undisturbed.communicate()
            if undisturbed.returncode:
                sys.exit(told.decode(errors="replace"))
            took = time.monotonic() - began
            wanted = digests(place / name, command.products)
            rng = random.Random(f"{options.seed} {name}")
            counts: Counter[str] = Counter()
            for kill in range(options.count // len(chosen) + (number < options.count % len(chosen))):
                output = place / f"{name}-{kill}"
                counts[kill_and_resume(command, output, rng.uniform(0.1, took), wanted)] += 1
                shutil.rmtree(output, ignore_errors=True)
            said = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
            print(f"{name}: {sum(counts.values())} kills in {took:.0f} s each, {len(wanted)} files: {said}", flush=True)
            is_good = is_good and not set(counts) - {"the same", "too late to kill"}
    sys.exit(not is_good)


if __name__ == "__main__":
    main()
