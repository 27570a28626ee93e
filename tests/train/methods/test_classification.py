"""Whole images with one class each: networks, votes, CReST's rule on images, and the life from tags to a bundle."""

from __future__ import annotations

import json
import shutil

import nibabel as nib
import numpy as np
import onnxruntime
import pytest
import torch
from classes import write_pictures
from stock import elsewhere
from tiny import write_dataset

from medseg import methods
from medseg.bundle.bundle import open_bundle, write_bundle
from medseg.config.pipeline import DataSpec, NetworkSpec
from medseg.data.cache import VolumeCache
from medseg.data.streams import PatchStreams
from medseg.engine.validation import ImageClasses
from medseg.errors import BundleError, ConfigError, ManifestError
from medseg.manifest.classification import classified
from medseg.manifest.manifest import Manifest, streams_of
from medseg.manifest.splits import cut_labels, fold_manifest
from medseg.method import Clock, Predictions
from medseg.networks.factory import NetworkFactory, check_exportable, definition_of
from medseg.planning.plan import plan_data
from medseg.portable.networks.adapters import Planar
from medseg.serve.access.settings import Access
from medseg.serve.start import prepare
from medseg.workflows.compare.report.differences import compare_arms
from medseg.workflows.compare.report.statistics import summarize
from medseg.workflows.compare.scores.judge import class_rows
from medseg.workflows.compare.scores.rows import RunKey
from medseg.workflows.evaluate.image_classes import class_table
from medseg.workflows.evaluate.run import evaluate
from medseg.workflows.export.options import ExportOptions
from medseg.workflows.export.run import run_export
from medseg.workflows.predict.run import predict
from medseg.workflows.train.run import train
from medseg.workflows.train.self_training.labelling.precision import as_one_image
from medseg.workflows.train.self_training.report.added_images import SHOWN, choose_added, draw_added_images

pytestmark = pytest.mark.usefixtures("undrawn")

SHORT = (
    "stages.0.schedule.iterations=80", "stages.0.network.width=4", "stages.0.schedule.workers=0",
    "stages.0.schedule.validate_every=80",
)  # fmt: skip


def networks_of_images(dims: int, name: str = "unet") -> NetworkFactory:
    data = DataSpec(
        labels={1: "dark", 2: "grey", 3: "bright"},
        modality=("OT",),
        spacing_mm=(1.0, 1.0, 1.0),
        patch=(16, 16, 1) if dims == 2 else (16, 16, 16),
        view="axial" if dims == 2 else "volume",
        has_background=False,
        target="images",
    )
    return NetworkFactory(NetworkSpec(name=name, width=4), data)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ["unet", "vnet"])
def test_all_pixels_of_an_image_have_its_logits_of_the_pooled_features(dims, name):
    network = networks_of_images(dims, name).segmenter().eval()
    check_exportable(network)
    image = torch.randn(2, 1, *[16] * dims)
    with torch.no_grad():
        found = network(image)
        pooled = network.network.encode(image)[-1].flatten(2).mean(2)
    convolution = network.head.convolution
    by_hand = pooled @ convolution.weight.flatten(1).T + convolution.bias
    assert found.shape == (2, 3, *[16] * dims)
    assert torch.allclose(found, by_hand.view(2, 3, *[1] * dims).expand_as(found), atol=1e-5)


def classifier_bundle(folder):
    """An untrained classifier of pictures as training leaves one."""
    data = networks_of_images(2).data
    spec = NetworkSpec(name="unet", width=4, options={"norm": "batch"})  # as a training is planned
    network = Planar(NetworkFactory(spec, data).segmenter(), 2).eval()
    return write_bundle(folder, network, network_def=definition_of(network), data=data, name="tiny")


def test_a_classifier_can_be_traced_for_any_number_and_size_of_images(tmp_path):
    network = open_bundle(classifier_bundle(tmp_path / "bundle")).network
    with torch.no_grad():
        traced = torch.jit.trace(network, torch.randn(1, 1, 16, 16, 1))
        for shape in ((1, 1, 16, 16, 1), (3, 1, 32, 24, 2)):
            image = torch.randn(shape)
            assert torch.allclose(traced(image), network(image), atol=1e-6)


@pytest.mark.slow
def test_a_classifier_is_written_as_onnx(tmp_path):
    file = run_export(ExportOptions(classifier_bundle(tmp_path / "bundle"), tmp_path / "model.onnx"))
    session = onnxruntime.InferenceSession(str(file))
    image = torch.randn(2, 1, 16, 16, 1)
    with torch.no_grad():
        expected = open_bundle(tmp_path / "bundle").network(image)
    (found,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    assert np.allclose(found, expected, atol=1e-4)
    assert session.get_modelmeta().custom_metadata_map["target"] == "images"


def test_a_label_server_refuses_a_classifier_by_its_folder(tmp_path):
    bundle = classifier_bundle(tmp_path / "bundle")
    (tmp_path / "studies").mkdir()
    with pytest.raises(BundleError, match="classifies whole images; the server serves models that segment") as caught:
        prepare(str(tmp_path / "studies"), [bundle], tmp_path / "work", Access())
    assert str(bundle) in str(caught.value)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("name", ["supervised", "crest", "mean_teacher", "s4l"])
def test_methods_learn_of_images_and_leave_the_decoder_alone(name):
    method = methods.build(name, networks_of_images(2))
    label = torch.tensor([0, 2], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 1, 16, 16)
    part = {"image": torch.randn(2, 1, 16, 16), "label": label}
    batch = {"labeled": part, "all": part, "unlabeled": part}
    terms = method({stream.name: batch[stream.name] for stream in method.streams}, Clock(0, 10))
    sum(terms.values()).backward()
    trained = [key for key, value in method.named_parameters() if value.grad is not None and "network" in key]
    frozen = [key for key, value in method.named_parameters() if not value.requires_grad]
    assert trained
    assert any("submodule" in key for key in trained)  # down to the bottom of the network
    assert any(".2." in key for key in frozen)  # the ways up


def test_recall_by_votes_by_hand():
    """Three of the first class, two found; one of the second, found; none of the third: (2/3 + 1) / 2 and 3/4."""
    metric = ImageClasses(3, torch.device("cpu"))
    votes = [(0, 0), (0, 0), (0, 2), (1, 1)]
    for true, given in votes:
        prediction = torch.full((1, 4, 4, 1), given)
        prediction[:, 0] = 1  # a quarter of the voxels has no say
        label = torch.full((1, 4, 4, 1), true)
        label[:, :3, 0] = 255
        metric.update(([prediction], [label], [torch.ones(3)]))
    found = metric.compute()
    assert found["mean"] == pytest.approx(5 / 6)
    assert found["accuracy"] == 0.75
    assert found["classes"] == [0.66667, 1.0, None]


def image_of(name: str, value: int, odds: float) -> Predictions:
    label, score = torch.full((4, 4, 1), value, dtype=torch.uint8), torch.full((4, 4, 1), odds, dtype=torch.float16)
    return Predictions([label], [score.float().sigmoid().half()], log_odds=[score], name=name)


def kept_images(rule, cases):
    decided = rule.decide({case.name: rule.summarize(case) for case in cases})
    return [case.name for case in cases if rule.label(case, decided, 1) is not None]


def test_images_added_by_hand():
    """Labels 100, 10, 1 and predictions 60, 20, 8: floors of rates .21544, .46416 and 1 are 12, 9 and 8."""
    rule = methods.build_rule("crest", 3, unit="image", least_rate=0.0)
    assert rule.counts_images
    rule.class_counts = [100, 10, 1]
    cases = []
    for value, count in enumerate((60, 20, 8)):
        cases += [image_of(f"{value}_{number:02d}", value, number / 8) for number in range(count)]
    kept = kept_images(rule, cases)
    assert [sum(name.startswith(f"{value}_") for name in kept) for value in range(3)] == [12, 9, 8]
    assert "0_48" in kept
    assert "0_47" not in kept  # the most confident first


def test_the_threshold_of_images_by_hand():
    """Of .99 .97 .9 .8 .7 .6 .55 .5 the share .46416 are three, down to .9."""
    rule = methods.build_rule("crest", 3, unit="image", least_rate=0.0)
    rule.class_counts = [100, 10, 1]
    confidences = (0.99, 0.97, 0.9, 0.8, 0.7, 0.6, 0.55, 0.5)
    cases = [image_of(f"image{p}", 1, np.log(p / (1 - p))) for p in confidences]
    assert kept_images(rule, cases) == ["image0.99", "image0.97", "image0.9"]


def test_an_image_is_kept_whole_with_the_class_of_most_of_its_voxels():
    rule = methods.build_rule("crest", 2, unit="image", alpha=0)
    rule.class_counts = [1, 1]
    case = image_of("a", 1, 2.0)
    case.labels[0][0] = 0
    label = rule.label(case, rule.decide({"a": rule.summarize(case)}), 1)
    assert (label == 1).all()


def test_tags_become_labels_and_folds_and_fewer_labels_know_them(tmp_path):
    manifest = classified(Manifest.load(write_pictures(tmp_path)))
    assert manifest.classes == ("dark", "grey", "bright")
    assert not manifest.has_background
    counts = {name: len(cases) for name, cases in streams_of(manifest).items()}
    assert counts == {"labeled": 12, "weak": 0, "unlabeled": 9, "all": 21}
    manifest.save(tmp_path / "again.json")
    again = classified(Manifest.load(tmp_path / "again.json"))
    assert [case.image_class for case in again.training] == [1] * 4 + [2] * 4 + [3] * 4
    fewer = cut_labels(manifest, 5)
    assert [len(fewer.training), len(fewer.unlabeled)] == [5, 16]
    assert not any(case.is_labelled for case in fewer.unlabeled)
    assert len(fold_manifest(manifest, 3, 0).test) == 4


@pytest.mark.parametrize(
    ("section", "tags", "words"),
    [
        ("training", ["dark", "bright"], "training[0]: training_dark0 has the tags dark, bright; each image has"),
        ("training", [], "training[0]: training_dark0 has no tag; each image has exactly one class"),
        ("validation", {"dark": False}, "validation[0]: validation_dark0 has no tag"),
        ("training", ["black"], "training[0].tags: unknown classes ['black']; known are"),
    ],
)  # fmt: skip
def test_an_image_without_exactly_one_class_is_named(tmp_path, section, tags, words):
    path = write_pictures(tmp_path)
    content = json.loads(path.read_text())
    content[section][0]["tags"] = tags
    path.write_text(json.dumps(content))
    with pytest.raises(ManifestError) as error:
        classified(Manifest.load(path))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_the_rule_of_images_is_refused_where_voxels_have_classes(tmp_path):
    data = write_dataset(tmp_path / "data", labeled=1, unlabeled=1)
    with pytest.raises(ConfigError, match=r"rule crest takes whole images as samples, and data\.target is voxels"):
        train("crest_images", data, tmp_path / "run", overrides=["data.target=voxels"])


def test_batches_have_constant_labels_drawn_equally_from_all_classes(tmp_path):
    path = write_pictures(tmp_path, labelled=4)
    content = json.loads(path.read_text())
    del content["training"][5:8], content["training"][5:8]  # one grey picture, and no bright one but the last
    path.write_text(json.dumps(content))
    manifest = classified(Manifest.load(path))
    spec = plan_data(
        manifest, network=NetworkSpec(name="unet"), memory_bytes=1e9,
        overrides={"target": "images", "sampling": "classes"},
    )  # fmt: skip
    volumes = VolumeCache(tmp_path / "cache").prepare(manifest, list(manifest.training), spec)
    streams = PatchStreams({"labeled": volumes}, spec, {"labeled": 4}, seed=0, total=20)
    labels = torch.cat([streams[number]["labeled"]["label"] for number in range(20)])
    values = labels.flatten(1)
    assert (values == values[:, :1]).all()
    found = torch.bincount(values[:, 0].long(), minlength=3)
    assert found.max() - found.min() <= 1


def test_from_tags_to_votes_with_medseg_and_without(tmp_path):
    data = write_pictures(tmp_path / "data")
    run = train("classify", data, tmp_path / "run", overrides=[*SHORT, "stages.0.schedule.batch={labeled: 6}"])
    (validation,) = [
        json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines() if '"validation"' in line
    ]
    assert set(validation["classes"]) == {"dark", "grey", "bright"}
    assert 0 <= validation["balanced_accuracy"] <= 1
    predict(run, data, tmp_path / "ours", section="test")
    report = evaluate(tmp_path / "ours", data)
    assert report["accuracy"] == report["balanced_accuracy"]  # as many of each class
    assert report["balanced_accuracy"] > 0.6
    assert report["classes"]["dark"]["images"] == 2
    images = tmp_path / "images"
    images.mkdir()
    for file in (tmp_path / "data").glob("test_*.png"):
        shutil.copy(file, images)
    places = ["--bundle_root", ".", "--dataset_dir", str(images), "--output_dir", str(tmp_path / "theirs")]
    elsewhere(run / "bundle", "-m", "monai.bundle", "run", "--config_file", "configs/inference.json", *places)
    for file in (tmp_path / "ours").glob("*.nii.gz"):
        ours = np.asarray(nib.load(file).dataobj)
        assert (ours == ours.flat[0]).all()
        assert (np.asarray(nib.load(tmp_path / "theirs" / file.name).dataobj) == ours).all()


def test_generations_on_images_resume_with_the_same_labels(tmp_path):
    data = write_pictures(tmp_path / "data", labelled=2, validation=1, unlabelled=2)
    changes = [*SHORT, "stages.0.schedule.batch={labeled: 4, all: 4}", "stages.0.rounds.count=1"]
    changes[0] = "stages.0.schedule.iterations=5"
    run = train("crest_images", data, tmp_path / "run", overrides=changes)
    manifest = Manifest.load(run / "round1" / "manifest.json")
    added = [case for case in manifest.training if case.label]
    assert added
    assert len(manifest.training) + len(manifest.unlabeled) == 12
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (judged,) = [each for each in records if each["kind"] == "pseudo"]
    assert set(judged["precision"]) == {"dark", "grey", "bright"}
    assert {share for share in judged["precision"].values() if share is not None} <= {0.0, 0.3333, 0.5, 1.0}
    page = (run / "summary.html").read_text()
    assert "Images that each round adds" in page
    assert "share of images" in page
    for case in added:
        label = np.asarray(nib.load(manifest.label(case)).dataobj)
        assert label.min() == label.max() in (1, 2, 3)
    before = (run / "bundle" / "models" / "model.pt").read_bytes()
    shutil.rmtree(run / "bundle")
    shutil.rmtree(run / "round1" / "axial")
    train("crest_images", data, tmp_path / "run", overrides=changes, resume=True)
    again = torch.load(run / "bundle" / "models" / "model.pt", weights_only=True)
    (tmp_path / "model.pt").write_bytes(before)
    first = torch.load(tmp_path / "model.pt", weights_only=True)
    assert all(torch.equal(again[name], first[name]) for name in first)


def votes_of(folder, given):
    """Predictions of the two test pictures of each class: class names in the order dark, grey, bright, or None."""
    values = {"background": 0, "dark": 1, "grey": 2, "bright": 3}
    folder.mkdir()
    cases = [f"test_{name}{number}" for name in ("dark", "grey", "bright") for number in range(2)]
    for case, name in zip(cases, given, strict=True):
        if name is not None:
            label = np.full((16, 16), values[name], np.uint8)
            nib.save(nib.Nifti1Image(label, np.eye(4)), folder / f"{case}.nii.gz")
    return folder


def test_an_image_counts_once_by_the_class_of_most_of_its_voxels():
    assert as_one_image(np.array([[2, 2, 1], [255, 255, 255]])).tolist() == [2]
    assert as_one_image(np.full((2, 2), 255)).tolist() == [255]


def test_images_that_are_added_are_counted_by_class_and_some_are_shown(tmp_path):
    """Twelve unlabelled images: nine become grey, two bright, and one stays without a class."""
    manifest = classified(Manifest.load(write_pictures(tmp_path, unlabelled=4)))
    cases = manifest.unlabeled
    counts = {case.name: {"fused": [0, 256, 0]} for case in cases[:9]}
    counts |= {case.name: {"fused": [0, 0, 256]} for case in cases[9:11]}
    added = choose_added(manifest, cases, counts)
    assert {name: (count, len(files)) for name, (count, files) in added.items()} == {
        "dark": (0, 0), "grey": (9, SHOWN), "bright": (2, 2)
    }  # fmt: skip
    assert added["bright"][1][0] == manifest.images(cases[9])
    assert draw_added_images({1: added, 2: added}).startswith(b"\x89PNG")
    assert choose_added(manifest.model_copy(update={"training": ()}), cases, counts) == {}


def test_evaluation_by_hand_counts_missing_predictions_as_wrong(tmp_path):
    """Recalls 1, 1/2 and 0: balanced accuracy 0.5; of three times dark two are, of grey one of one, bright never."""
    data = write_pictures(tmp_path / "data")
    predictions = votes_of(tmp_path / "p", ["dark", "dark", "grey", "dark", None, "background"])
    report = evaluate(predictions, data)
    assert report["balanced_accuracy"] == 0.5
    assert report["accuracy"] == 0.5
    assert report["classes"]["dark"] == {"images": 2, "predicted": 3, "recall": 1.0, "precision": pytest.approx(2 / 3)}
    assert report["classes"]["bright"] == {"images": 2, "predicted": 0, "recall": 0.0, "precision": None}
    assert report["failed"] == ["test_bright0"]
    text = class_table(report)
    assert "Balanced accuracy 0.500, the mean of the recalls of 3 classes; accuracy 0.500 of 6 images" in text
    assert "Images without a usable prediction, which count as not found: 1." in text
    assert "| bright | 0 | 0 | 2 |" in (predictions / "evaluation" / "metrics.md").read_text()


def test_evaluation_names_an_image_with_two_tags(tmp_path):
    data = write_pictures(tmp_path / "data")
    content = json.loads(data.read_text())
    content["test"][1]["tags"] = ["dark", "grey"]
    data.write_text(json.dumps(content))
    with pytest.raises(
        ManifestError, match=r"test\[1\]: test_dark1 has the tags dark, grey; each image has exactly one"
    ):
        evaluate(votes_of(tmp_path / "p", ["dark"] * 6), data)


def test_results_of_a_comparison_by_hand(tmp_path):
    """Two seeds: balanced accuracy 0.5, as above, and 1; the second arm finds all with both."""
    data = write_pictures(tmp_path / "data")
    manifest = Manifest.load(data)
    right = ["dark", "dark", "grey", "grey", "bright", "bright"]
    given = {("first", 0): ["dark", "dark", "grey", "dark", None, "background"], ("first", 1): right}
    given |= {("second", 0): right, ("second", 1): right}
    rows = []
    for (arm, seed), names in given.items():
        report = evaluate(votes_of(tmp_path / f"{arm}{seed}", names), data)
        backwards = {**report, "cases": report["cases"][::-1]}
        rows += class_rows(backwards, manifest, RunKey(arm, seed))
    first, second = summarize(rows)
    assert list(first.structures) == list(report["classes"]) == list(manifest.labels.values())[1:]
    assert first.over_all["recall"].spread.values == (0.5, 1.0)
    assert first.accuracy.values == (0.5, 1.0)
    assert first.structures["dark"]["precision"].spread.values == pytest.approx((2 / 3, 1.0))
    assert first.over_all["recall"].undefined == 0
    assert second.over_all["recall"].spread.mean == 1.0
    (difference,) = compare_arms(rows, "first", draws=100)
    assert difference.metric == "recall"
    assert difference.mean == pytest.approx(0.25)  # half of the images with one seed of two
    assert difference.subjects == 6
