"""Which components a trained model keeps: chosen where it helps, with values worked out by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from models import LABELS, labels_of, make_bundle, make_image
from skimage.measure import label as components
from tiny import FAST, write_dataset

from medseg.bundle.components import components_of
from medseg.engine.validation import case_dice
from medseg.manifest.manifest import Manifest
from medseg.portable.inference.components import keep_components
from medseg.workflows.predict.run import predict
from medseg.workflows.train.postprocessing.choose import choose_rule, round_down, rules_to_try
from medseg.workflows.train.postprocessing.evidence import Evidence, evidence_of, smallest_true_components
from medseg.workflows.train.postprocessing.run import Measured, apply_choice, measure
from medseg.workflows.train.run import train

LARGEST = {"keep": "largest"}
CPU = torch.device("cpu")


def evidence(reference: int, *found: tuple[int, int, int], case: str = "a") -> Evidence:
    """Voxels of 2 mm3."""
    return Evidence(case, 2.0, reference, found)


def test_an_island_is_removed():
    island = evidence(100, (100, 100, 90), (20, 20, 0))  # 180/220 before, 180/200 after
    clean = evidence(100, (100, 100, 100))
    choice = choose_rule("organ", [island, clean], None)
    assert choice.rule == LARGEST
    assert choice.dice_before == pytest.approx((180 / 220 + 1) / 2)
    assert choice.dice_after == pytest.approx((0.9 + 1) / 2)
    assert (choice.largest_loss, choice.cases) == (0.0, 2)
    assert choice.line() == "organ: largest component, validation Dice 0.9091 -> 0.9500 (2 cases)"


def test_a_part_that_really_is_detached_stays():
    island = evidence(100, (100, 100, 90), (20, 20, 0))
    in_two = evidence(100, (50, 50, 50), (45, 45, 45))  # 190/195 before, 100/150 by the largest alone
    assert choose_rule("organ", [island] * 9 + [in_two], None).rule is None
    # pieces of 40 voxels have 80 mm3: what is smaller than 90/2 voxels goes, the detached piece of 45 stays
    choice = choose_rule("organ", [island] * 9 + [in_two], 90.0)
    assert choice.rule == {"smallest_mm3": 90.0}
    assert choice.dice_after == pytest.approx((9 * 0.9 + 190 / 195) / 10)
    assert choose_rule("organ", [island] * 9 + [in_two], 39.0).rule is None  # the island has 40 mm3


def test_of_rules_that_do_the_same_the_mildest_is_taken():
    islands = evidence(100, (100, 100, 100), (1, 1, 0))
    assert choose_rule("organ", [islands], 200.0).rule == {"smallest_mm3": 12.0}


def test_a_loss_too_small_to_be_a_part_is_allowed():
    gains = evidence(1000, (1000, 1000, 1000), (500, 500, 0))
    loses = evidence(1000, (999, 999, 999), (1, 1, 1))  # 1 before, 1998/1999 after
    choice = choose_rule("organ", [gains, loses], None)
    assert choice.rule == LARGEST
    assert choice.largest_loss == pytest.approx(1 / 1999)


@pytest.mark.parametrize(("island", "rule"), [(1, None), (3, LARGEST)])
def test_a_gain_of_nothing_is_none(island, rule):
    """Of 1000 true voxels an island of one costs 1/2001 = 0.0005, of three 3/2003 = 0.0015."""
    assert choose_rule("organ", [evidence(1000, (1000, 1000, 1000), (island, island, 0))], None).rule == rule


@pytest.mark.parametrize(("island", "volume"), [(3, 4.0), (7, 16.0)])
def test_a_stronger_rule_has_to_bring_more_than_a_milder_one(island, volume):
    """Of 3000 true voxels the eight islands of one voxel cost 0.0013, one of three 0.0005, one of seven 0.0012."""
    specks = [(1, 1, 0)] * 8
    drawn = evidence(3000, (3000, 3000, 3000), *specks, (island, island, 0))
    assert choose_rule("organ", [drawn], 64.0).rule == {"smallest_mm3": volume}


def test_what_one_case_gains_is_not_taken_from_others():
    """Mean gain (0.0909 - 2 * 0.005) / 3, but two cases of three lose a true piece of 10 of 1000 voxels."""
    gains = evidence(100, (100, 100, 100), (20, 20, 0))
    loses = evidence(1000, (990, 990, 990), (10, 10, 10))
    assert choose_rule("organ", [gains, loses, loses], None).rule is None
    assert choose_rule("organ", [gains, loses], None).rule is None
    choice = choose_rule("organ", [gains, gains, loses], None)
    assert choice.rule == LARGEST
    assert choice.largest_loss == pytest.approx(10 / 1990)
    assert choice.dice_after == pytest.approx((1 + 1 + 1980 / 1990) / 3)


def test_nothing_where_nothing_should_be_is_a_dice_of_one():
    absent = evidence(0, (5, 5, 0))
    assert absent.dice(None) == 0
    assert absent.dice({"smallest_mm3": 11.0}) == 1
    assert absent.dice(LARGEST) == 0
    assert choose_rule("organ", [absent], 11.0).rule == {"smallest_mm3": 11.0}


@pytest.mark.parametrize("place", [0, 2, 4])
def test_of_equally_large_components_the_one_counts_that_is_kept(place):
    """Three of two voxels each, one of which is true: a Dice of 1 if that one is kept, else of 0."""
    prediction, reference = np.zeros((5, 2, 1), np.uint8), np.zeros((5, 2, 1), np.uint8)
    prediction[::2] = 1
    reference[place] = 1
    labels = keep_components(torch.from_numpy(prediction.copy()), {1: LARGEST}).numpy()
    found = evidence_of("a", prediction, reference, 1, 2.0)
    assert found.dice(None) == pytest.approx(2 * 2 / (6 + 2))
    assert found.dice(LARGEST) == float((labels == reference).all())


@pytest.mark.parametrize(
    ("smallest", "sizes"),
    [(None, []), (0.5, []), (100.0, [6.2, 25.0, 100.0]), (1234.5, [77.0, 300.0, 1200.0]), (8.0, [2.0, 8.0])],
)
def test_sizes_are_parts_of_the_smallest_true_component(smallest, sizes):
    assert rules_to_try(smallest, 1.5) == [*({"smallest_mm3": size} for size in sizes), LARGEST]


def test_rounding_never_goes_up():
    assert [round_down(v) for v in (6.25, 0.0678, 999.9, 10.0, 1.0)] == [6.2, 0.067, 990.0, 10.0, 1.0]


def test_what_a_drawn_case_says():
    prediction, reference = np.zeros((6, 5, 4), np.uint8), np.zeros((6, 5, 4), np.uint8)
    prediction[0:2, 0, 0] = prediction[2, 1, 1] = 1  # 3 voxels, the last one by a corner
    prediction[5, 4, 2:4] = 1  # 2 voxels, of which nobody labelled one
    reference[0:4, 0, 0] = 1
    reference[5, 4, 3] = 255
    found = evidence_of("a", prediction, reference, 1, 2.0)
    assert found == Evidence("a", 2.0, 4, ((3, 3, 2), (2, 1, 0)))
    assert found.dice(None) == pytest.approx(2 * 2 / (4 + 4))
    assert found.dice(LARGEST) == pytest.approx(2 * 2 / (3 + 4))
    assert evidence_of("a", prediction, reference, 2, 2.0) is None


@pytest.mark.parametrize("seed", range(5))
def test_what_is_counted_is_what_the_rules_do(seed):
    rng = np.random.default_rng(seed)
    prediction = (rng.random((12, 11, 10)) < 0.08).astype(np.uint8)
    prediction[2:6, 2:6, 2:6] = 1
    reference = rng.choice([0, 1, 255], (12, 11, 10), p=[0.5, 0.4, 0.1]).astype(np.uint8)
    found = evidence_of("a", prediction, reference, 1, 2.0)
    for rule in (None, LARGEST, {"smallest_mm3": 4}, {"smallest_mm3": 7.5}, {"smallest_mm3": 1000}):
        labels = torch.from_numpy(prediction.copy())
        keep_components(labels, {1: rule} if rule else {}, voxel_mm3=2.0)
        dice, _ = case_dice(labels, torch.from_numpy(reference), 2, [(1,)])
        assert found.dice(rule) == pytest.approx(float(dice[0]))


def write_label(image: Path, values: np.ndarray) -> str:
    path = image.with_name(f"label_{image.name}")
    nib.save(nib.Nifti1Image(values, nib.load(image).affine), path)
    return path.name


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A bundle and two validation cases whose labels are its own predictions with one component of liver each."""
    folder = tmp_path_factory.mktemp("world")
    make_bundle(folder / "run" / "bundle", name="vnet")
    cases = []
    for number in range(2):
        image = make_image(folder / f"ct{number}.nii.gz", seed=number)
        predict(folder / "run", image, folder / "before")
        values = labels_of(folder / "before" / image.name).copy()
        numbers = components(values == 1)
        sizes = np.bincount(numbers.ravel())
        sizes[0] = 0
        values[(values == 1) & (numbers != sizes.argmax())] = 0
        cases.append({"image": image.name, "label": write_label(image, values)})
    labels = {str(value): name for value, name in LABELS.items()}
    content = {"labels": labels, "modality": {"0": "CT"}, "training": [{**cases[0], "case": "again"}]}
    content["validation"] = cases
    (folder / "m.json").write_text(json.dumps(content))
    return folder


def test_chosen_kept_and_applied(world, tmp_path, capsys):
    manifest, run = Manifest.load(world / "m.json"), shutil.copytree(world / "run", tmp_path / "run")
    measured = measure(run, manifest, CPU)
    apply_choice([measured], run, manifest)
    rows = {row["structure"]: row for row in json.loads((run / "postprocessing.json").read_text())["structures"]}
    assert rows["spleen"]["rule"] is None
    assert rows["spleen"]["dice_before"] == rows["spleen"]["dice_after"] == 1
    dice = []
    for number in range(2):
        before = labels_of(world / "before" / f"ct{number}.nii.gz")
        true = labels_of(world / f"label_ct{number}.nii.gz")
        dice.append(2 * (true == 1).sum() / ((true == 1).sum() + (before == 1).sum()))
    assert rows["liver"]["dice_before"] == pytest.approx(np.mean(dice), abs=1e-5)
    assert rows["liver"]["dice_after"] == 1
    assert f"liver: {'' if rows['liver']['rule'] == LARGEST else 'components'}" in capsys.readouterr().err
    assert components_of(run / "bundle") == {1: rows["liver"]["rule"]}
    predict(run, world / "m.json", tmp_path / "out", section="validation")
    for number in range(2):
        expected = labels_of(world / f"label_ct{number}.nii.gz")
        np.testing.assert_array_equal(labels_of(tmp_path / "out" / f"ct{number}.nii.gz"), expected)


def test_a_finished_choice_is_not_made_again(world, tmp_path, monkeypatch):
    manifest, run = Manifest.load(world / "m.json"), shutil.copytree(world / "run", tmp_path / "run")
    first = measure(run, manifest, CPU)
    apply_choice([first], run, manifest)
    written = (run / "bundle" / "configs" / "inference.json").stat().st_mtime_ns
    monkeypatch.setattr("medseg.workflows.train.postprocessing.run.BundleRunner", None)
    again = measure(run, manifest, CPU)
    assert again == first
    apply_choice([again], run, manifest)
    assert (run / "bundle" / "configs" / "inference.json").stat().st_mtime_ns == written


def test_folds_choose_together(world, tmp_path):
    """One fold alone would remove the island; in another's case it is a part, so that neither does."""
    folders = [shutil.copytree(world / "run", tmp_path / f"fold{number}") for number in range(2)]
    island, part = evidence(100, (100, 100, 90), (20, 20, 0)), evidence(100, (80, 80, 80), (20, 20, 20))
    manifest = Manifest.load(world / "m.json")
    measured = [
        Measured(folders[0], {"liver": [island] * 3}, {"liver": 400.0}),
        Measured(folders[1], {"liver": [part]}, {"liver": 40.0}),
    ]
    apply_choice(measured[:1], tmp_path, manifest)
    assert components_of(folders[0] / "bundle") == {1: {"smallest_mm3": 100.0}}
    apply_choice(measured, tmp_path, manifest)
    assert [components_of(folder / "bundle") for folder in folders] == [{}, {}]
    (row,) = json.loads((tmp_path / "postprocessing.json").read_text())["structures"]
    assert (row["rule"], row["cases"]) == (None, 4)


def test_the_smallest_component_of_labels_in_mm3(tmp_path):
    image = make_image(tmp_path / "ct.nii.gz", shape=(10, 10, 10), affine=np.diag([2.0, 1.0, 1.5, 1.0]))
    values = np.zeros((10, 10, 10), np.uint8)
    values[0:3, 0, 0] = values[5:7, 5, 5] = 1  # 3 and 2 voxels of 3 mm3
    values[9, 9, 0:4] = 7
    cut = values.copy()
    cut[5, 5, 5], cut[8, 8, 8] = 0, 255  # a case of which a part was not labelled says nothing
    cases = []
    for number, each in enumerate((values, cut)):
        copy = shutil.copy(image, tmp_path / f"c{number}.nii.gz")
        cases.append({"image": copy.name, "label": write_label(copy, each)})
    labels = {str(value): name for value, name in LABELS.items()}
    (tmp_path / "m.json").write_text(json.dumps({"labels": labels, "training": cases}))
    found = smallest_true_components(Manifest.load(tmp_path / "m.json"), ["liver", "spleen"])
    assert found == pytest.approx({"liver": 6.0, "spleen": 12.0})


def test_without_validation_it_is_said_and_when_not_asked_nothing_is_done(tmp_path, capsys):
    short = [*FAST, "stages.0.schedule.iterations=2"]
    run = train("supervised", write_dataset(tmp_path / "a", validation=0), tmp_path / "run", overrides=short)
    assert capsys.readouterr().err.count("post-processing: no validation case has a label, none is chosen") == 1
    assert "postprocessing: auto" in (run / "pipeline.yaml").read_text()
    data = write_dataset(tmp_path / "b")
    off = train("supervised", data, tmp_path / "off", overrides=[*short, "postprocessing=none"])
    assert "post-processing" not in capsys.readouterr().err
    assert not (off / "postprocessing.json").exists()


def test_a_run_of_an_earlier_version_stays_as_it_is_when_it_is_resumed(tmp_path):
    short = [*FAST, "stages.0.schedule.iterations=2"]
    data = write_dataset(tmp_path / "a")
    run = train("supervised", data, tmp_path / "run", overrides=short)
    assert (run / "postprocessing.json").is_file()
    plan = run / "pipeline.yaml"
    plan.write_text(plan.read_text().replace("postprocessing: auto\n", ""))
    for name in ("postprocessing.json", "validation_components.json"):
        (run / name).unlink()
    train("supervised", data, run, overrides=short, resume=True)
    assert not (run / "postprocessing.json").exists()
