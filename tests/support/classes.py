"""Tiny pictures with one class each: dark, grey and bright ones, which a network tells apart in a few steps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

LEVELS = {"dark": 40, "grey": 128, "bright": 220}


def write_pictures(folder: Path, *, labelled: int = 4, validation: int = 1, test: int = 2, unlabelled: int = 3) -> Path:
    """So many pictures of each class, 16 x 16, with stripes beside which they are dark or bright; the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    content: dict = {"labels": {"0": "background", "1": "dark", "2": "grey", "3": "bright"}, "modality": {"0": "OT"}}
    counts = {"training": labelled, "validation": validation, "test": test, "unlabeled": unlabelled}
    for section, count in counts.items():
        cases: list = []
        for name, level in LEVELS.items():
            for number in range(count):
                picture = np.full((16, 16), level) + rng.integers(-10, 10, (16, 16))
                picture[:4] = 0
                picture[4:6] = 255
                file = f"{section}_{name}{number}.png"
                Image.fromarray(picture.astype(np.uint8)).save(folder / file)
                cases.append(file if section == "unlabeled" else {"image": file, "tags": [name]})
        content[section] = cases
    path = folder / "manifest.json"
    path.write_text(json.dumps(content))
    return path
