"""What a bundle keeps of its training and tells of it, with numbers worked out by hand."""

from __future__ import annotations

import json
import shutil
import subprocess

import jsonschema
import nibabel as nib
import numpy as np
import pytest
from forking import python
from PIL import Image
from tiny import FAST, write_dataset

from medseg.bundle.bundle import open_bundle
from medseg.bundle.components import set_components
from medseg.bundle.training_facts import FACTS, Spread, read_facts
from medseg.config.pipeline import DataSpec
from medseg.manifest.manifest import Manifest
from medseg.workflows.predict.run import predict
from medseg.workflows.train import settings
from medseg.workflows.train.facts.keep import count_cases, keep_facts, licence_of
from medseg.workflows.train.facts.measure import LABELS, cases_by_stream, measure
from medseg.workflows.train.facts.scores import validation_of
from medseg.workflows.train.run import train

MM = np.diag([-2.0, -2.0, 2.5, 1.0])
"""Voxels of 10 mm3, so that 100 of them are a millilitre."""

SHORT = [*FAST, "stages.0.schedule.iterations=2", "stages.0.schedule.validate_every=1"]


def save(path, array, affine=MM):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def write_cases(folder, sizes, extra=(), **content):
    """A manifest of cases whose structures 1 and 2 have so many voxels; case by case further keys in `extra`."""
    training = []
    for number, voxels in enumerate(sizes):
        label = np.zeros((20, 20, 20), np.uint8)
        of_structures = label.reshape(2, -1)
        for value, count in enumerate(voxels, 1):
            of_structures[value - 1, :count] = value
        save(folder / f"secret{number}_label.nii.gz", label)
        image = np.full((20, 20, 20), 10 * number, np.int16)
        image[:, :, 10:] += 100
        save(folder / f"secret{number}.nii.gz", image)
        more = extra[number] if number < len(extra) else {}
        training.append({"image": f"secret{number}.nii.gz", "label": f"secret{number}_label.nii.gz", **more})
    labels = {"0": "background", "1": "liver", "2": "spleen"}
    whole = {"modality": "MR", "labels": labels, "training": training, **content}
    (folder / "m.json").write_text(json.dumps(whole))
    return Manifest.load(folder / "m.json")


def measured(manifest, **changes):
    spec = {"labels": manifest.labels, "modality": ("MR",), "spacing_mm": (2, 2, 2.5), "patch": (16, 16, 16)}
    found = DataSpec(**{**spec, **changes})
    return measure(settings.load("supervised"), manifest, found, lambda done, total: None)


def test_volumes_are_those_of_the_labels(tmp_path):
    manifest = write_cases(tmp_path, [(100, 50), (300, 0), (1000, 70)])
    found = measured(manifest)
    assert found["unit"] == "ml"
    liver, spleen = found["structures"][1], found["structures"][2]
    assert (liver.cases, liver.absent, liver.subjects) == (3, 0, 3)
    assert liver.size == Spread(smallest=1, median=3, largest=10)
    assert (spleen.cases, spleen.absent, spleen.subjects) == (3, 1, 2)
    assert spleen.size == Spread(smallest=0.5, median=0.6, largest=0.7)
    assert found["spacing_mm"][2] == Spread(smallest=2.5, median=2.5, largest=2.5)
    assert [each.largest for each in found["field_of_view_mm"]] == [40, 40, 50]


def test_intensities_are_those_of_the_images(tmp_path):
    (known,) = measured(write_cases(tmp_path, [(100, 50)] * 3))["channels"]
    assert known.images == 3
    assert known.percentiles["25"] == Spread(smallest=0, median=10, largest=20)
    assert known.percentiles["99"] == Spread(smallest=100, median=110, largest=120)
    # half of each is dark and half is bright: quartiles at 0, halfway and 1
    assert known.brightness == Spread(smallest=0.5, median=0.5, largest=0.5)
    assert known.contrast is None


def test_labels_that_do_not_tell_the_whole_say_nothing(tmp_path):
    extra = [{"classes": ["liver"]}, {"pseudo": True}, {"subject": "p"}, {"subject": "p"}]
    manifest = write_cases(tmp_path, [(100, 0), (5000 - 1000, 9), (200, 50), (300, 60), (400, 70)], extra)
    label = np.asarray(nib.load(tmp_path / "secret4_label.nii.gz").dataobj).copy()
    label[0, 0, 0] = 255
    save(tmp_path / "secret4_label.nii.gz", label)
    found = measured(manifest)["structures"]
    assert (found[1].cases, found[1].subjects, found[1].size) == (3, 2, Spread(smallest=1, median=2, largest=3))
    assert (found[2].cases, found[2].subjects) == (2, 1)


def test_pictures_have_shares_and_photographs_none(tmp_path):
    for name, mode in (("grey", "L"), ("colour", "RGB")):
        label = np.zeros((20, 10), np.uint8)
        label[:5] = 1  # a quarter
        image = np.random.default_rng(0).integers(0, 255, (20, 10, *([3] if mode == "RGB" else []))).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / f"{name}.png")
        Image.fromarray(label).save(tmp_path / f"{name}_label.png")
        content = {
            "modality": ["red", "green", "blue"] if mode == "RGB" else "US",
            "labels": {"0": "background", "1": "lesion"},
            "training": [{"image": f"{name}.png", "label": f"{name}_label.png"}],
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        channels = ("OT",) * 3 if mode == "RGB" else ("US",)
        found = measured(Manifest.load(tmp_path / f"{name}.json"), modality=channels)
        assert (found["unit"], found["spacing_mm"], found["field_of_view_mm"]) == ("share", (), ())
        if mode == "L":
            assert found["structures"][1].size == Spread(smallest=0.25, median=0.25, largest=0.25)
            assert found["channels"][0].brightness is not None
        else:
            assert found["structures"] == {}
            assert [each.brightness for each in found["channels"]] == [None] * 3
        of_images = measured(Manifest.load(tmp_path / f"{name}.json"), modality=channels, target="images")
        assert of_images["structures"] == {}


def test_only_what_is_learnt_from_is_opened(tmp_path):
    manifest = write_cases(tmp_path, [(100, 50)], unlabeled=["nowhere.nii.gz"])
    assert measured(manifest)["channels"][0].images == 1  # supervised learning does not look at it
    assert set(cases_by_stream(settings.load("supervised"), manifest)) == {"labeled"}
    for task in ("dtc", "dmpct", "mean_teacher"):
        assert {"labeled", "unlabeled"} <= set(cases_by_stream(settings.load(task), manifest))
    assert LABELS == 200


def test_cases_are_counted_by_section_and_kind(tmp_path):
    manifest = write_cases(
        tmp_path,
        [(1, 1), (1, 1)],
        [{}, {"pseudo": True}],
        unlabeled=["u.nii.gz", {"image": "v.nii.gz", "label": "hidden.nii.gz"}],
        validation=[{"image": "w.nii.gz", "label": "w_label.nii.gz"}, {"image": "x.nii.gz", "tags": []}],
        test=["t.nii.gz"],
    )
    assert count_cases(manifest, {"labeled"}) == {
        "training": {"labelled": 1, "pseudo-label": 1},
        "validation": {"labelled": 1, "tags only": 1},
        "test": {"unlabelled, not used": 1},
        "unlabeled": {"unlabelled, not used": 2},
    }
    assert count_cases(manifest, {"labeled", "unlabeled"})["unlabeled"] == {"unlabelled": 2}


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ({"licence": "CC-BY-SA 4.0"}, "CC-BY-SA 4.0"),
        ({"license": " CC0\n1.0 "}, "CC0 1.0"),
        ({"licence": "https://creativecommons.org/licenses/by/4.0/"}, "https://creativecommons.org/licenses/by/4.0/"),
        ({"licence": "/home/miller/LICENCE.txt"}, None),
        ({"licence": "C:\\data\\LICENCE.txt"}, None),
        ({"licence": "../LICENCE"}, None),
        ({"licence": 3}, None),
        ({}, None),
    ],
)
def test_the_licence_is_the_manifests_and_no_path(tmp_path, said, kept):
    assert licence_of(write_cases(tmp_path, [(1, 1)], **said)) == kept


def log_of(folder, *records):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"iteration": n, "kind": "validation", **record}) for n, record in enumerate(records, 1)]
    (folder / "metrics.jsonl").write_text("\n".join([json.dumps({"iteration": 1, "kind": "train"}), *lines]) + "\n")


def test_scores_are_those_of_the_weights_that_were_chosen(tmp_path):
    manifest = write_cases(tmp_path, [(1, 1)], validation=[{"image": "w.nii.gz", "label": "l.nii.gz"}])
    data = DataSpec(labels=manifest.labels, modality=("MR",), spacing_mm=(2, 2, 2), patch=(16, 16, 16))
    best = {"dice": 0.7, "classes": {"liver": 0.8, "spleen": 0.6}}
    log_of(
        tmp_path / "one", {"dice": 0.2, "classes": {"liver": 0.4, "spleen": None}}, best, {"dice": 0.5, "classes": {}}
    )
    found = validation_of(tmp_path / "one", manifest, data)
    assert (found.cases, found.metric, found.mean, found.structures) == (1, "Dice", 0.7, best["classes"])
    stages = tmp_path / "stages"
    for stage in (0, 2, 10):
        log_of(stages / f"stage{stage}", {"dice": stage / 100, "classes": {"liver": 0.5}})
    assert validation_of(stages, manifest, data).mean == 0.1
    rounds = tmp_path / "rounds"
    for number in (0, 9, 10):
        (rounds / f"round{number}").mkdir(parents=True)
        notes = {"dice": {"axial": 0.1, "fused": 0.5 + number / 100}, "classes": {"liver": 0.3}}
        (rounds / f"round{number}" / "scores.json").write_text(json.dumps({"notes": notes}))
    assert validation_of(rounds, manifest, data).mean == 0.6
    assert validation_of(tmp_path / "one", write_cases(tmp_path, [(1, 1)]), data) is None


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    data = write_dataset(folder / "data")
    content = json.loads(data.read_text())
    content["licence"] = "CC-BY 4.0"
    data.write_text(json.dumps(content))
    return folder, data, train("supervised", data, folder / "run", overrides=SHORT)


def test_a_training_leaves_facts_and_a_card(trained):
    _, data, run = trained
    facts = read_facts(run / "bundle")
    manifest = Manifest.load(data)
    counts = []
    for case in manifest.training:
        label = np.asarray(nib.load(manifest.label(case)).dataobj)
        counts.append((label == 1).sum() * 1.5 / 1000)
    assert facts.structures[1].size.smallest == pytest.approx(min(counts), rel=1e-5)
    assert facts.structures[1].size.largest == pytest.approx(max(counts), rel=1e-5)
    assert facts.cases["training"] == {"labelled": 2}
    assert facts.validation.cases == 1
    page = (run / "bundle" / "docs" / "README.md").read_text()
    for expected in (
        "| value in the result | structure | validation Dice | in training labels, ml |",
        "of 1 validation case is ",
        "These cases chose the weights",
        "| unlabeled | 2 unlabelled, not used |",
        "| test | 1 labelled, not used |",
        "- Licence of the data: CC-BY 4.0",
        "Not for diagnostic use",
        "medseg predict --model .",
        "python -m monai.bundle run",
        f"- Date: {facts.date}",
        "It learnt from 2 labelled cases: few",
        "- Images that show less than 24 x 20 x 27 mm (x, y, z)",
    ):
        assert expected in page, expected
    metadata = json.loads((run / "bundle" / "configs" / "metadata.json").read_text())
    assert metadata["eval_metrics"]["mean_dice"] == facts.validation.mean
    assert metadata["label_classes"] == {"0": "background", "1": "ball", "2": "box"}
    assert "CC-BY 4.0" in metadata["copyright"]
    configs = run / "bundle" / "configs"
    jsonschema.validate(metadata, json.loads((configs / "metadata_schema.json").read_text()))
    assert open_bundle(run).data.labels == {0: "background", 1: "ball", 2: "box"}


def test_nothing_of_it_names_a_case_or_a_path(trained):
    folder, _, run = trained
    for file in (FACTS, "metadata.json", "medseg.json"):
        text = (run / "bundle" / "configs" / file).read_text()
        assert "case" not in text.replace("cases", "").replace("validation_case", "").replace("_case", "")
        assert str(folder) not in text
    page = (run / "bundle" / "docs" / "README.md").read_text()
    assert not any(f"case{number}" in page for number in range(9))
    assert str(folder) not in page


@pytest.mark.parametrize(("unit", "volume"), [("ml", "450 mm3"), ("share", "450 pixels")])
def test_post_processing_keeps_the_card_which_tells_its_gain(unit, volume, trained, tmp_path):
    bundle = shutil.copytree(trained[2] / "bundle", tmp_path / "bundle")
    file = bundle / "configs" / FACTS
    file.write_text(json.dumps(json.loads(file.read_text()) | {"unit": unit}))
    facts = read_facts(bundle)
    gain = {"structure": "ball", "dice_before": 0.832, "dice_after": 0.847, "cases": 1}
    set_components(bundle, {1: {"smallest_mm3": 450.0}}, [gain])
    page = (bundle / "docs" / "README.md").read_text()
    rule = f"ball: components of at least {volume}, validation Dice 0.8320 -> 0.8470 (1 case).\n"
    assert f"before the post-processing that the bundle applies: {rule}" in page
    assert page.count(rule) == 2
    assert "These cases chose the weights" in page
    assert read_facts(bundle) == facts
    set_components(bundle, {}, [])
    assert "post-processing" not in (bundle / "docs" / "README.md").read_text()
    assert read_facts(bundle) == facts


def test_a_finished_run_from_before_gets_facts_by_resuming_it(trained, tmp_path):
    _, data, finished = trained
    run = shutil.copytree(finished, tmp_path / "run")
    weights = (run / "bundle" / "models" / "model.pt").read_bytes()
    (run / "bundle" / "configs" / FACTS).unlink()
    command = [python(), "-m", "medseg", "train", "--task", "supervised", "--data", str(data), "--output", str(run)]
    for override in SHORT:
        command += ["--set", override]
    subprocess.run([*command, "--resume"], check=True, capture_output=True)
    assert read_facts(run / "bundle") == read_facts(finished / "bundle")
    assert (run / "bundle" / "models" / "model.pt").read_bytes() == weights


def test_facts_that_are_there_are_left_alone(trained, monkeypatch):
    _, data, run = trained
    monkeypatch.setattr("medseg.workflows.train.facts.keep.measure", lambda *given: pytest.fail("measured again"))
    keep_facts(run, settings.load(str(run)), Manifest.load(data))


def test_the_cases_of_its_own_data_set_are_no_surprise(trained, tmp_path):
    _, data, run = trained
    for section in ("training", "test"):
        for case in predict(run, data, tmp_path / section, section=section)["cases"]:
            kinds = {each["kind"] for each in case.get("implausible", [])}
            assert kinds <= {"volume"}  # a network of two iterations finds anything
