"""A manifest to choose settings by: its test cases are unlabelled ones whose labels are opened for measuring alone.

    python benchmarks/trainings/development_split.py acdc/compare_8.json --subjects 2 --first 2 -o runs/acdc_dev.json

The manifest's own test cases, which results are told of, take no part. Labels of the unlabelled cases are expected in
`labels/` beside `images/`, under the image's name. `--subjects` and `--first` take some of the labelled subjects, in
the order of the list, so that a setting can be judged on several draws; the others are left out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def main() -> None:
    options = _options()
    folder = options.manifest.resolve().parent
    content = json.loads(options.manifest.read_text())

    subjects = list(dict.fromkeys(_subject(case) for case in content["training"]))
    taken = subjects[options.first :][: options.subjects]
    training = [_whole(case, folder) for case in content["training"] if _subject(case) in taken]
    judged = list(dict.fromkeys(_subject(case) for case in content["unlabeled"]))[: options.judged]
    test = [_opened(case, folder) for case in content["unlabeled"] if _subject(case) in judged]

    kept = {key: content[key] for key in ("name", "tensorImageSize", "modality", "labels")}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({**kept, "training": training, "test": test}, indent=1))
    print(f"{options.output}: {len(training)} cases to learn from, {len(test)} to judge by")


def _subject(case: dict[str, str]) -> str:
    return case.get("subject", case["image"])


def _whole(case: dict[str, str], folder: Path) -> dict[str, str]:
    """A case whose files have their whole paths."""
    return {key: value if key == "subject" else str(folder / value) for key, value in case.items()}


def _opened(case: dict[str, str], folder: Path) -> dict[str, str]:
    label = case["image"].replace("images/", "labels/")
    if not (folder / label).is_file():
        raise SystemExit(f"{folder / label}: there is no such file to measure by")
    return _whole({**case, "label": label}, folder)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--subjects", type=int, default=None, help="so many labelled subjects; default all")
    parser.add_argument("--first", type=int, default=0, help="from this one on")
    parser.add_argument("--judged", type=int, default=10, help="subjects to judge by")
    parser.add_argument("-o", "--output", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
