"""Images and results unlike those of training: what is said of them, and when nothing is, worked out by hand."""

from __future__ import annotations

import json
import shutil
import subprocess

import nibabel as nib
import numpy as np
import pytest
from forking import python
from models import data_spec, make_bundle, make_image

from medseg.bundle.bundle import open_bundle
from medseg.bundle.keep_facts import write_facts
from medseg.bundle.training_facts import (
    FACTS,
    PERCENTILES,
    ChannelFacts,
    Spread,
    StructureFacts,
    TrainingFacts,
    brightness,
    percentiles_of,
    read_facts,
)
from medseg.config.pipeline import Intensity
from medseg.errors import BundleError, ConfigError
from medseg.portable.io.read import read_header
from medseg.serve.models import Model
from medseg.serve.prediction import predict_study
from medseg.workflows.predict.plausibility.check import Plausibility, joined
from medseg.workflows.predict.plausibility.finding import Finding
from medseg.workflows.predict.plausibility.intensities import intensity_findings
from medseg.workflows.predict.plausibility.volumes import factor, volume_findings
from medseg.workflows.predict.run import predict

MM2 = np.diag([-2.0, -2.0, 2.0, 1.0])
"""Voxels of 8 mm3, so that 125 of them are a millilitre."""

ORGAN = data_spec(labels={0: "background", 3: "organ"}, smallest_mm=(40.0, 40.0, 40.0))
MR = data_spec(modality=("MR",), intensity=Intensity())


def spread(*values: float) -> Spread:
    return Spread.of(values)


def structure(*sizes: float, absent: int = 0) -> StructureFacts:
    return StructureFacts(cases=len(sizes) + absent, absent=absent, subjects=len(sizes), size=spread(*sizes))


def facts_of(**fields) -> TrainingFacts:
    return TrainingFacts(date="2026-11-29", versions={"medseg": "0.1.0"}, cases={}, **fields)


def sized(tmp_path, voxels: int, known: StructureFacts, shape=(20, 20, 20), at=(2, 2, 2), unit="ml", spec=ORGAN):
    """Texts on an organ of some voxels, from a corner on."""
    header = read_header(make_image(tmp_path / "i.nii.gz", shape=shape, affine=MM2))
    labels = np.zeros(shape, np.uint8)
    inside = labels[tuple(slice(low, length - 2) for low, length in zip(at, shape, strict=True))]
    filled = np.zeros(inside.size, np.uint8)
    filled[:voxels] = 3
    inside[...] = filled.reshape(inside.shape)
    counts = np.bincount(labels.ravel(), minlength=256)
    facts = facts_of(unit=unit, structures={3: known})
    return [finding.text for finding in volume_findings(labels, counts, header, spec, facts)]


def test_the_range_is_wider_the_fewer_there_were():
    assert [factor(n) for n in (1, 2, 4, 6, 12, 60)] == [8.0, 5.0, 3.5, 3.0, 2.5, 2.1]


def test_a_volume_beyond_the_widened_range_is_told(tmp_path):
    four = structure(2.0, 3.0, 3.0, 4.0)  # 3.5 times 4 ml are 14 ml, 1750 voxels; 2 / 3.5 ml are 71.4 voxels
    assert sized(tmp_path, 1750, four) == []
    expected = "organ of 14 ml, 2 to 4 ml in the labels of 4 training cases"
    assert sized(tmp_path, 1751, four) == [expected]
    assert sized(tmp_path, 72, four) == []
    assert sized(tmp_path, 71, four) == ["organ of 0.568 ml, 2 to 4 ml in the labels of 4 training cases"]
    one = structure(2.0)  # 16 ml are 2000 voxels
    assert sized(tmp_path, 2000, one) == []
    assert sized(tmp_path, 2001, one) == ["organ of 16 ml, 2 to 2 ml in the label of the one training case"]


def test_what_the_edge_cuts_may_be_small_but_not_large(tmp_path):
    four = structure(2.0, 3.0, 3.0, 4.0)
    assert sized(tmp_path, 10, four, at=(0, 2, 2)) == []
    assert sized(tmp_path, 3000, four, at=(0, 2, 2)) != []
    # 70 voxels of 8 mm3 are 560 mm3, to the power of two thirds 67.9: an edge cuts from 34 mm2, 9 voxels, on
    header = read_header(tmp_path / "i.nii.gz")
    for on_edge, expected in ((8, 1), (9, 0)):
        labels = np.zeros((20, 20, 20), np.uint8)
        labels[5, 5:13, 5:13] = 3  # 64 voxels inside
        labels[5, 5, 5 : on_edge - 1] = 0  # so that there are 70 with those on the edge
        labels[0, 5, 5 : 5 + on_edge] = 3
        counts = np.bincount(labels.ravel(), minlength=256)
        assert len(volume_findings(labels, counts, header, ORGAN, facts_of(structures={3: four}))) == expected


def test_a_picture_is_measured_by_its_share(tmp_path):
    share = structure(0.1, 0.2, 0.2, 0.2)  # 3.5 times a fifth is 0.7: of 20 x 20 pixels 280
    picture = {"shape": (20, 20, 5), "at": (0, 0, 2), "unit": "share"}
    header = read_header(make_image(tmp_path / "i.nii.gz", shape=(20, 20), affine=np.eye(4)))
    for pixels, expected in ((280, 0), (281, 1)):
        labels = np.zeros((20, 20, 1), np.uint8)
        labels.ravel()[:pixels] = 3
        counts = np.bincount(labels.ravel(), minlength=256)
        found = volume_findings(labels, counts, header, ORGAN, facts_of(unit="share", structures={3: share}))
        assert len(found) == expected
    assert found[0].text == "organ on 70.25% of the image, 10.00% to 20.00% in the labels of 4 training cases"
    assert sized(tmp_path, 100, share, **picture) == []


def test_what_every_case_had_is_missed_in_whole_scans_only(tmp_path):
    three = structure(2.0, 3.0, 4.0)
    assert sized(tmp_path, 0, three) == ["no organ, which is in all 3 training labels"]
    assert sized(tmp_path, 0, three, shape=(20, 20, 18)) == []  # 36 of 40 mm
    assert sized(tmp_path, 0, structure(2.0, 3.0)) == []  # two are too few to say so
    assert sized(tmp_path, 0, structure(2.0, 3.0, 4.0, absent=1)) == []
    former = data_spec(labels=ORGAN.labels)
    assert sized(tmp_path, 0, three, spec=former) == []  # who knows how much scans should show


def channel(percentiles, bright=None, contrast=None) -> ChannelFacts:
    of_images = {str(q): spread(value) for q, value in zip(PERCENTILES, percentiles, strict=True)}
    bright, contrast = (None if value is None else spread(value) for value in (bright, contrast))
    return ChannelFacts(images=1, percentiles=of_images, brightness=bright, contrast=contrast)


def odd(found, spec, known: ChannelFacts, *, is_cut=False) -> list[str]:
    findings = intensity_findings([np.array(found, float)], spec, [known], is_cut=is_cut)
    return [finding.text for finding in findings]


def test_percentiles_and_brightness_by_hand():
    image = np.arange(101, dtype=np.int16).reshape(101, 1, 1)
    np.testing.assert_allclose(percentiles_of(image), [1, 25, 50, 75, 99])
    assert brightness(percentiles_of(image)) == pytest.approx(0.5)
    large = np.random.default_rng(0).normal(100, 10, (120, 120, 120))
    np.testing.assert_allclose(percentiles_of(large), np.percentile(large, PERCENTILES), atol=0.2)
    assert brightness(np.full(5, 3.0)) == 0


def test_of_mr_the_shape_counts_and_not_the_scale():
    known = channel([0, 10, 40, 90, 250], bright=0.19)
    for usual in (
        [0, 10, 40, 90, 250],
        [0, 0.1, 0.4, 0.9, 2.5],
        [1000, 1100, 1400, 1900, 3500],
        [-1, -0.8, -0.3, 0.4, 3],
    ):
        assert odd(usual, MR, known) == []
    brighter = [0, 100, 140, 170, 250]  # (100 + 140 + 170) / 3 / 250 = 0.55, of another scanner
    assert odd(brighter, MR, known) == []
    assert odd([0, 0, 0, 0, 250], MR, known) == []  # much more air
    inverted = [0, 160, 210, 240, 250]  # 0.81
    text = "has a brightness of 0.81 (0 dark, 1 bright), at most 0.19 in training: inverted, or of another kind?"
    assert odd(inverted, MR, known) == [text]
    assert odd(inverted, MR, known, is_cut=True) == []
    assert odd([7, 7, 7, 7, 7], MR, known) == ["has the intensity 7 nearly everywhere"]


def test_hounsfield_units_are_told_from_others_on_either_side():
    ct = [-1000, -990, -100, 40, 300]
    mr = channel([0, 10, 40, 90, 250], bright=0.19)
    expected = (
        "has intensities of -1000 to 300 (1st to 99th percentile), as of CT in Hounsfield units; training had none"
    )
    assert odd(ct, MR, mr) == [expected]
    spec = data_spec(intensity=Intensity(kind="window", low=-200, high=200, mean=40, std=60))
    # in the window -1000, -990 are 0, -100 is 0.25, 40 is 0.6: a brightness of 0.283 and full contrast
    known = channel(ct, bright=0.283, contrast=1.0)
    assert odd(ct, spec, known) == []
    of_mr = odd([0, 10, 40, 90, 250], spec, known)
    assert of_mr == [
        "has intensities of 0 to 250 (1st to 99th percentile), training -1000 to 300: no Hounsfield units?"
    ]
    assert odd([-90, -10, 40, 60, 250], spec, known) == []  # cut to the body
    assert odd([10, 20, 40, 60, 150], spec, known, is_cut=True) == []  # cut to an organ


def test_a_window_sees_what_was_rescaled_or_inverted():
    spec = data_spec(intensity=Intensity(kind="window", low=0, high=200, mean=40, std=60))
    known = channel([0, 0, 20, 120, 250], bright=0.233, contrast=1.0)
    assert odd([0, 0, 20, 120, 250], spec, known) == []
    rescaled = odd([0, 0, 0.1, 0.5, 1], spec, known)  # a contrast of 1 / 200
    assert rescaled == ["has intensities of 0 to 1 (1st to 99th percentile), training 0 to 250: another scale?"]
    (inverted,) = odd([0, 130, 230, 250, 250], spec, known)  # (0.65 + 1 + 1) / 3 = 0.883
    assert "a brightness of 0.88 (0 dark, 1 bright), at most 0.23 in training" in inverted


def test_photographs_may_be_dark_or_bright_but_keep_their_scale():
    fixed = data_spec(modality=("OT",), intensity=Intensity(kind="fixed", mean=120, std=60))
    known = channel([5, 60, 100, 150, 240], contrast=235)
    for usual in ([0, 5, 10, 20, 90], [100, 240, 250, 254, 255]):
        assert odd(usual, fixed, known) == []
    for other in ([0, 0.2, 0.4, 0.6, 0.9], [1000, 15000, 25000, 40000, 60000]):
        assert "another scale?" in odd(other, fixed, known)[0]
    assert odd([100, 240, 250, 254, 255], MR, channel([5, 60, 100, 150, 240])) == []  # z-scored: no brightness kept


@pytest.fixture
def world(tmp_path):
    make_image(tmp_path / "images" / "a.nii.gz")
    make_bundle(tmp_path / "former")
    shutil.copytree(tmp_path / "former", tmp_path / "model")
    return tmp_path


def give(world, factor: float = 1.0, **fields) -> dict:
    """Facts of three cases whose volumes are so many times those that the model predicts; returns these."""
    (case,) = predict(world / "former", world / "images", world / "plain")["cases"]
    found = case["volumes_ml"]
    structures = {value: structure(*[found[name] * factor] * 3) for value, name in ((1, "liver"), (7, "spleen"))}
    write_facts(world / "model", facts_of(structures=structures, **fields))
    return found


def test_a_case_like_those_of_training_is_predicted_without_a_word(world, capfd):
    give(world, 1.0, channels=(channel(percentiles_of(np.asarray(nib.load(world / "images/a.nii.gz").dataobj))),))
    capfd.readouterr()
    report = predict(world / "model", world / "images", world / "out")
    assert report["cases"][0]["warnings"] == []
    assert "implausible" not in report["cases"][0]
    assert "implausible" not in capfd.readouterr().err


def test_an_implausible_case_is_named_on_the_screen_in_the_report_and_when_it_is_there_already(world, capfd):
    found = give(world, 0.01)
    for status in ("done", "skipped"):
        capfd.readouterr()
        report = predict(world / "model", world / "images", world / "out")
        (case,) = report["cases"]
        assert case["status"] == status
        assert [each["of"] for each in case["implausible"]] == ["liver", "spleen"]
        assert {each["kind"] for each in case["implausible"]} == {"volume"}
        assert f"liver of {found['liver']:.3g} ml" in case["implausible"][0]["text"]
        (line,) = case["warnings"]
        assert "a.nii.gz: liver of " in line
        assert "; spleen of " in line
        said = capfd.readouterr().err.splitlines()
        assert f"warning: {line}" in said
        assert "implausible: a" in said
        assert not any(each.startswith("warnings for") for each in said)
    assert (world / "out" / "a.nii.gz").exists()


def test_refused_means_that_nothing_is_written_and_the_command_fails(world):
    give(world, 0.01)
    command = [python(), "-m", "medseg", "predict", "--model", "model", "--input", "images", "--output", "out"]
    run = subprocess.run([*command, "--implausible", "refuse"], cwd=world, capture_output=True, text=True)
    assert run.returncode == 1
    assert "failed: images/a.nii.gz: not written (--implausible refuse): liver of " in run.stderr
    left = sorted(path.name for path in (world / "out").iterdir())
    assert left == ["predict_report.html", "predict_report.json"]
    report = json.loads((world / "out" / "predict_report.json").read_text())
    assert report["failed"][0]["case"] == "a"
    assert [each["of"] for each in report["cases"][0]["implausible"]] == ["liver", "spleen"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_result_of_before_is_no_way_around_a_refusal(world, overwrite):
    give(world, 0.01)
    predict(world / "model", world / "images", world / "out")
    before = (world / "out" / "a.nii.gz").read_bytes()
    report = predict(world / "model", world / "images", world / "out", implausible="refuse", overwrite=overwrite)
    assert "the result that is there is an earlier command's, and would be refused" in report["failed"][0]["error"]
    assert (world / "out" / "a.nii.gz").read_bytes() == before
    shutil.rmtree(world / "out")
    report = predict(world / "model", world / "images", world / "out", implausible="refuse")
    assert "not written" in report["failed"][0]["error"]


def test_a_plausible_case_passes_where_others_are_refused(world):
    give(world)
    report = predict(world / "model", world / "images", world / "out", implausible="refuse")
    assert (report["failed"], report["cases"][0]["status"]) == ([], "done")


def test_models_from_before_say_once_that_nothing_is_compared(world, capfd):
    make_image(world / "images" / "b.nii.gz", seed=1)
    report = predict(world / "former", world / "images", world / "out")
    assert [case["warnings"] for case in report["cases"]] == [[], []]
    said = capfd.readouterr().err
    assert said.count("keeps no facts of its training, so that") == 1
    with pytest.raises(ConfigError, match=r"the model keeps no facts of its training to judge results by; .*--resume"):
        predict(world / "former", world / "images", world / "out2", implausible="refuse")
    with pytest.raises(ConfigError, match="--implausible loudly: accepted are warn, refuse"):
        predict(world / "former", world / "images", world / "out2", implausible="loudly")
    assert not (world / "out2").exists()


def test_several_models_warn_of_what_is_odd_to_all_that_know(world):
    give(world, 0.01)
    shutil.copytree(world / "model", world / "wide")
    structures = {1: structure(0.001, 1e6), 7: structure(1e-6, 2e-6, 3e-6)}
    write_facts(world / "wide", facts_of(structures=structures))
    bundles = [open_bundle(world / name) for name in ("model", "wide", "former")]
    image = world / "images" / "a.nii.gz"
    for chosen, expected in ((bundles[:1], ["liver", "spleen"]), (bundles, ["spleen"]), (bundles[2:], [])):
        check = Plausibility(chosen).case([read_header(image)], image)
        labels = np.ones((26, 30, 19), np.uint8)
        labels[:13] = 7
        check.see_labels(labels, np.bincount(labels.ravel(), minlength=256))
        assert [finding.of for finding in check.findings] == expected


def test_a_line_tells_a_few_and_counts_the_others():
    volumes = [Finding("volume", name, f"{name} of 9 ml") for name in "abcdef"]
    assert joined(volumes) == "a of 9 ml; b of 9 ml; c of 9 ml; d of 9 ml; and 2 more"
    absent = [Finding("absent", name, f"no {name}, which is in all 3 training labels") for name in "uvwxyz"]
    assert joined(absent[:1]) == "no u, which is in all 3 training labels"
    assert joined(absent + volumes[:1]) == "a of 9 ml; missing, and in all training labels: u, v, w, x and 2 more"


def test_another_modality_is_told_by_a_manifest_or_a_dicom_header(world):
    give(world)
    known = Plausibility([open_bundle(world / "model")])
    image = world / "images" / "a.nii.gz"
    headers = [read_header(image)]
    for modalities, expected in (
        (["MR"], ["is MR, the model was trained on CT"]),
        (["T2w"], ["is MR, the model was trained on CT"]),
        (["CTA"], []),
        (["something"], []),
        ([], []),
    ):
        assert [finding.text for finding in known.case(headers, image, modalities).findings] == expected
    manifest = {"modality": "MR", "labels": {"0": "background", "1": "liver"}, "test": ["images/a.nii.gz"]}
    (world / "m.json").write_text(json.dumps(manifest))
    (case,) = predict(world / "model", world / "m.json", world / "out")["cases"]
    assert [each["kind"] for each in case["implausible"]] == ["modality"]


def test_the_label_server_answers_with_it(world):
    give(world, 0.01)
    model = Model("m", world / "model", world / "model", world / "served")
    answer = predict_study(model, world / "images" / "a.nii.gz", world / "r.nii.gz", "cpu")
    assert [line.partition(" of ")[0] for line in answer["warnings"]] == ["liver", "spleen"]


def test_damaged_facts_are_named(world):
    file = world / "model" / "configs" / FACTS
    file.write_text('{"format": 1, "date": 3}')
    with pytest.raises(
        BundleError, match=r"training_facts.json: does not tell of a training \(date: .*remove the file"
    ):
        read_facts(world / "model")
