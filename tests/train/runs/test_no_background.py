"""Sets without a background, such as photographs of streets: the first class is one like the others."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from support.given_networks import factory

from medseg.config.pipeline import DataSpec
from medseg.data import augment
from medseg.data.cache import VolumeCache
from medseg.data.streams import PatchStreams
from medseg.engine.validation import ClassDice
from medseg.errors import ConfigError, ManifestError
from medseg.manifest.manifest import Manifest
from medseg.ops.losses import segmentation as losses
from medseg.portable.masked_losses import DiceAndCrossEntropy
from medseg.workflows.data.check_case import check_case
from medseg.workflows.evaluate.run import evaluate
from medseg.workflows.train.plan import plan_data
from medseg.workflows.train.self_training.labelling.pseudo_label_statistics import count_case, summarize_round

LABELS = {"0": "sky", "1": "road", "2": "car"}


def write_set(folder, *, background=None, **more):
    """Two photographs of 12 x 10: sky above road, a car in the first alone, a column that nobody annotated."""
    for number in range(2):
        label = np.zeros((10, 12), np.uint8)
        label[5:] = 1
        label[6:8, 3:6] = 2 if number == 0 else 1
        label[:, 11] = 255
        image = np.random.default_rng(number).integers(0, 255, (10, 12, 3)).astype(np.uint8)
        Image.fromarray(image).save(folder / f"photo{number}.png")
        Image.fromarray(label).save(folder / f"label{number}.png")
    cases = [{"image": f"photo{n}.png", "label": f"label{n}.png"} for n in range(2)]
    content = {"labels": LABELS, "modality": {"0": "red", "1": "green", "2": "blue"}, "training": cases, **more}
    if background != "absent":
        content["background"] = background
    (folder / "m.json").write_text(json.dumps(content))
    return Manifest.load(folder / "m.json")


def spec_of(manifest, **more):
    from medseg.config.pipeline import NetworkSpec

    return plan_data(manifest, network=NetworkSpec(name="unet"), memory_bytes=1e9, overrides=more)


def test_the_absent_key_means_that_0_is_the_background(tmp_path):
    manifest = write_set(tmp_path, background="absent")
    assert manifest.has_background
    assert list(manifest.structures.values()) == ["road", "car"]
    assert "background" not in manifest.model_dump(mode="json")
    spec = spec_of(manifest)
    assert spec.has_background
    assert list(spec.structures.values()) == ["road", "car"]
    assert "has_background" not in spec.model_dump(mode="json")


def test_the_flag_travels_from_the_manifest_to_the_networks(tmp_path):
    manifest = write_set(tmp_path)
    manifest.save(tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text())["background"] is None
    spec = spec_of(Manifest.load(tmp_path / "again.json"))
    assert list(spec.structures.values()) == ["sky", "road", "car"]
    stored = json.loads(json.dumps(spec.model_dump(mode="json")))
    assert stored["has_background"] is False
    assert DataSpec(**stored) == spec
    networks = factory(2)
    assert networks.has_background
    assert not type(networks)(networks.spec, networks.data.model_copy(update={"has_background": False})).has_background


def test_labels_need_no_0_where_there_is_no_background():
    cases = [{"image": "a.png", "label": "b.png"}]
    content = {"background": None, "labels": {"1": "airplane", "2": "bird"}, "training": cases}
    assert Manifest.model_validate(content).structures == {1: "airplane", 2: "bird"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"background": 3}, "background: is 3; accepted is 0, or null where every voxel"),
        ({"labels": {"0": "sky"}}, "at least two classes where there is no background"),
        (
            {"training": [{"image": "a.png", "label": "b.png", "classes": ["sky"]}]},
            r"training\[0\].classes: what a label does not cover is background in it, and background is null",
        ),
    ],
)
def test_what_does_not_go_together_is_one_line(tmp_path, change, message):
    content = {"background": None, "labels": LABELS, "training": [{"image": "a.png", "label": "b.png"}], **change}
    with pytest.raises(ManifestError, match=message) as caught:
        Manifest.build(content, tmp_path / "m.json")
    assert "\n" not in str(caught.value)


def test_a_pipeline_cannot_say_otherwise_than_the_manifest(tmp_path):
    with pytest.raises(ConfigError, match="has_background is True; accepted is false"):
        spec_of(write_set(tmp_path), has_background=True)


def test_dice_loss_counts_the_first_class():
    # class 0 is found nowhere, class 1 everywhere: Dice 0 and 2 * 2 / (4 + 2) = 2/3
    logits = torch.tensor([[[-50.0, -50, -50, -50], [50, 50, 50, 50]]])
    label = torch.tensor([[[0, 0, 1, 1]]], dtype=torch.uint8)
    assert losses.soft_dice(logits, label).item() == pytest.approx(1 / 3, abs=1e-4)
    assert losses.soft_dice(logits, label, has_background=False).item() == pytest.approx(2 / 3, abs=1e-4)
    both = DiceAndCrossEntropy(has_background=False)(logits, label) - losses.cross_entropy(logits, label)
    assert both.item() == pytest.approx(2 / 3, abs=1e-4)


def test_validation_counts_the_first_class():
    label = torch.tensor([[[[0, 0, 1, 1, 255]]]])
    prediction = torch.tensor([[[[0, 1, 1, 1, 0]]]])
    score = ClassDice(3, torch.device("cpu"), has_background=False)
    score.update(([prediction], [label], [torch.tensor([True] * 3)]))
    # sky 2 * 1 / (1 + 2), road 2 * 2 / (3 + 2), no car
    assert score.compute() == {"mean": pytest.approx((2 / 3 + 4 / 5) / 2), "classes": [0.66667, 0.8, None]}


def test_patches_are_centred_on_the_first_class_too(tmp_path):
    found = {}
    for background in (None, "absent"):
        manifest = write_set(tmp_path, background=background)
        spec = spec_of(manifest, patch=(1, 1, 1), foreground=1.0, augment={"affine": {"probability": 0}})
        volumes = VolumeCache(tmp_path / "cache").prepare(manifest, list(manifest.training), spec)
        streams = PatchStreams({"labeled": volumes}, spec, {"labeled": 8}, seed=0, total=20)
        labels = torch.cat([streams[i]["labeled"]["label"].flatten() for i in range(20)])
        found[background] = labels.bincount(minlength=3).tolist()
        tags = [volume.tags(3).tolist() for volume in volumes]
        assert tags == ([[1, 1, 1], [1, 1, 0]] if background is None else [[1, 1], [1, 0]])
    assert found["absent"][0] == 0
    assert sum(found["absent"]) == 160
    # 80 patches of the first photograph with three classes, 80 of the second with two
    assert all(abs(count - wanted) < 20 for count, wanted in zip(found[None], (66.7, 66.7, 26.7), strict=True))


def test_nothing_is_known_beyond_the_edges_of_a_photograph():
    image, label = torch.ones(1, 4, 4, 1), torch.ones(1, 4, 4, 1, dtype=torch.uint8)
    source = augment.Source(image, label, torch.zeros(1), outside=255)
    written, of_label = torch.empty(1, 6, 4, 1), torch.empty(1, 6, 4, 1, dtype=torch.uint8)
    augment.apply(augment.Draw({}, {}), source, (-1, 0, 0), written, of_label)
    assert of_label[0, :, 0, 0].tolist() == [255, 1, 1, 1, 1, 255]


def test_tags_may_name_the_first_class(tmp_path):
    cases = [{"image": "a.png", "tags": ["sky"]}, {"image": "b.png", "tags": {"sky": False}}]
    manifest = Manifest.build({"background": None, "labels": LABELS, "training": cases}, tmp_path / "m.json")
    one, other = (manifest.presence(case) for case in manifest.training)
    assert one == {0: True, 1: False, 2: False}
    assert other == {0: False}


def test_statistics_of_pseudo_labels_count_the_first_class():
    fused = np.array([[[0, 0, 1, 255]]], np.uint8)
    counts = count_case([fused], fused, classes=3, voxel_ml=2.0, before=np.zeros_like(fused), has_background=False)
    assert counts["structure"] == 4
    assert counts["both"] == [2, 0, 0]
    assert counts["size"] == [6, 1, 0]
    summary = summarize_round({"a": counts}, ["sky", "road", "car"], ["volume"])
    assert summary["volume_ml"] == {"sky": 4.0, "road": 2.0, "car": 0.0}
    assert summary["empty"] == []
    assert summary["silent"] == []


def test_a_photograph_of_sky_alone_is_not_empty(tmp_path):
    for background, codes in ((None, []), ("absent", ["empty"])):
        manifest = write_set(tmp_path, background=background)
        Image.fromarray(np.zeros((10, 12), np.uint8)).save(tmp_path / "label0.png")
        found = check_case(manifest, "training", manifest.training[0], headers_only=False)
        assert [problem.code for problem in found.problems] == codes


def test_evaluation_measures_the_first_class_and_the_whole_set(tmp_path):
    write_set(tmp_path)
    (tmp_path / "pred").mkdir()
    for number in range(2):
        prediction = np.array(Image.open(tmp_path / f"label{number}.png"))
        prediction[:, 11] = 0  # not annotated: counts nowhere
        prediction[4, :11] = 1  # 11 pixels of the sky called road
        Image.fromarray(prediction).save(tmp_path / f"pred/photo{number}.png")
    report = evaluate(tmp_path / "pred", tmp_path / "m.json")
    # of each photograph 55 pixels are sky, 44 of them found; road has 49 and 55, and 11 invented in each
    sky, road = 88 / 110, (49 + 55) / (49 + 55 + 22)
    assert report["set_iou"]["classes"] == {"sky": pytest.approx(sky), "road": pytest.approx(road), "car": 1.0}
    assert report["set_iou"]["mean"] == pytest.approx((sky + road + 1) / 3)
    assert report["classes"]["sky"]["dice"]["mean"] == pytest.approx(2 * 44 / (44 + 55))
    assert "| sky | 0.800 |" in (tmp_path / "pred/evaluation/metrics.md").read_text()


def test_an_image_without_prediction_has_no_class(tmp_path):
    write_set(tmp_path)
    (tmp_path / "pred").mkdir()
    prediction = np.array(Image.open(tmp_path / "label0.png"))
    prediction[:, 11] = 0
    Image.fromarray(prediction).save(tmp_path / "pred/photo0.png")
    report = evaluate(tmp_path / "pred", tmp_path / "m.json", pictures=False)
    assert report["set_iou"]["mean"] == 1
    assert report["set_iou"]["cases"] == 1
    assert report["classes"]["sky"]["dice_with_failures"]["mean"] == pytest.approx(0.5)
