"""What batches say besides images and labels: which labels nobody made, and where a patch shows the image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from medseg.config.pipeline import Augment, DataSpec
from medseg.data import cached_volume
from medseg.data.cached_volume import CachedVolume, Content
from medseg.data.streams import PatchStreams

STILL = {name: {"probability": 0} for name in ("affine", "contrast", "gamma", "noise")}
HALVED = {**STILL, "resize": {"probability": 1, "factor": (0.5, 0.5)}}


def photograph(folder: Path, name: str, size: int, labelled: bool = False) -> CachedVolume:
    folder = folder / name
    folder.mkdir()
    image = np.random.default_rng(0).normal(size=(1, size, size, 1)).astype(np.float16)
    label = np.ones((size, size, 1), np.uint8) if labelled else None
    cached_volume.write(folder, Content(image, label, np.eye(4)), seed=1)
    made = cached_volume.read(folder, name, Path(f"{name}.png"), labelled=labelled)
    assert made is not None
    return made


def batches(cases: dict[str, list[CachedVolume]], augment: dict, **changes: object) -> PatchStreams:
    spec = DataSpec(
        labels={0: "background", 1: "a"},
        modality=("RGB",),
        spacing_mm=(1, 1, 1),
        patch=(8, 8, 1),
        view="axial",
        **{"padding": "edge", "augment": Augment(**augment), **changes},
    )
    return PatchStreams(cases, spec, dict.fromkeys(cases, 2), seed=0, total=20)


def test_of_an_image_of_half_the_patch_a_quarter_is_inside(tmp_path):
    """By hand: 8 x 8 pixels at half their size are 4 x 4 of the 8 x 8 of the patch."""
    cases = {"labeled": [photograph(tmp_path, "a", 8, True)], "unlabeled": [photograph(tmp_path, "b", 8)]}
    places = set()
    for batch in batches(cases, HALVED):
        inside = batch["unlabeled"]["inside"]
        assert inside.shape == (2, 1, 8, 8)
        assert inside.dtype == torch.bool
        assert inside.flatten(1).sum(1).tolist() == [16, 16]
        places.add(tuple(inside[0, 0].nonzero().amin(0).tolist()))
        assert "inside" not in batch["labeled"]
        assert int((batch["labeled"]["label"] == 1).sum()) == 2 * 16
    assert len(places) > 3


def test_what_is_background_or_repeated_is_no_question(tmp_path):
    cases = {"unlabeled": [photograph(tmp_path, "a", 4)]}
    for changes in ({}, {"padding": "minimum"}, {"has_background": False}):
        assert set(batches(cases, STILL, **changes)[0]["unlabeled"]) == {"image"}
    unknown = batches(cases, STILL, has_background=False, padding="minimum")[0]["unlabeled"]
    assert unknown["inside"].flatten(1).sum(1).tolist() == [16, 16]


def test_labels_that_nobody_made_are_told_where_there_are_any(tmp_path):
    people, rule = photograph(tmp_path, "a", 8, True), photograph(tmp_path, "b", 8, True)
    assert "predicted" not in batches({"labeled": [people, rule]}, STILL)[0]["labeled"]
    data = batches({"labeled": [people, replace(rule, pseudo=True)]}, STILL)
    for number in range(5):
        wanted = [name == "b" for name in data.cases_of(number)["labeled"]]
        assert data[number]["labeled"]["predicted"].tolist() == wanted
