"""One bundle on one image: what its callers get of it, and what they are told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from models import data_spec, labels_of, make_bundle, make_image

from medseg.bundle.bundle import open_bundle
from medseg.bundle.runner import BundleRunner, prediction_errors
from medseg.errors import DataError, OutputError
from medseg.portable.inference.label_sink import probability_bytes
from medseg.portable.io.read import VolumeError, read_header
from medseg.portable.io.write import SaveError
from medseg.workflows.predict.run import predict

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("model") / "bundle", data_spec())


def test_label_values_for_files_and_class_indices_for_views_are_of_one_prediction(bundle, tmp_path):
    image = make_image(tmp_path / "ct.nii.gz")
    runner = BundleRunner(open_bundle(bundle), CPU)
    volume = runner.read([image])
    done = []
    whole = runner.predict(volume, probability_file=tmp_path / "all", progress=lambda *counts: done.append(counts))
    (view,), fused = runner.predict_views(volume, probability_folder=tmp_path)
    assert np.array_equal(np.array([0, 1, 7])[view.labels], whole.labels)
    assert torch.equal(fused, view.labels)
    assert whole.labels.shape == view.confidence.shape == whole.probabilities.shape[1:] == (26, 30, 19)
    assert view.confidence.dtype == torch.float16
    assert np.array_equal(whole.probabilities, view.probabilities)
    assert np.array_equal(whole.probabilities.argmax(0), view.labels)
    assert done[-1][0] == done[-1][1] > 0
    np.testing.assert_allclose(whole.affine, read_header(image).affine)
    predict(bundle, image, tmp_path / "out")
    assert np.array_equal(labels_of(tmp_path / "out" / "ct.nii.gz"), whole.labels)


def test_settings_of_a_caller_leave_the_bundle_as_it_was(bundle, tmp_path):
    opened = open_bundle(bundle)
    runner = BundleRunner(opened, CPU)
    runner.predict_views(runner.read([make_image(tmp_path / "ct.nii.gz")]), probability_folder=tmp_path)
    assert opened.inferer.label_values == [0, 1, 7]
    assert opened.inferer.probabilities is opened.inferer.confidence is None


def test_a_network_with_a_sigmoid_for_each_class_gives_those_as_probabilities(tmp_path):
    """Its logits, which are the same, are those of a bundle with a softmax."""
    image = make_image(tmp_path / "ct.nii.gz")
    found = {}
    for independent in (False, True):
        bundle = make_bundle(tmp_path / f"bundle{independent}", data_spec(), independent=independent)
        runner = BundleRunner(open_bundle(bundle), CPU)
        volume = runner.read([image])
        file = tmp_path / f"all{independent}"
        (tmp_path / f"views{independent}").mkdir()
        whole = runner.predict(volume, probability_file=file)
        (view,), _ = runner.predict_views(volume, probability_folder=tmp_path / f"views{independent}")
        (of_log_odds,), _ = runner.predict_views(volume, log_odds=True)
        assert np.array_equal(whole.probabilities, view.probabilities)
        assert np.array_equal(whole.probabilities.argmax(0), view.labels)
        found[independent] = whole, view, of_log_odds
    softmax, sigmoid = found[False][0], found[True][0]
    assert np.array_equal(softmax.labels, sigmoid.labels)
    assert np.abs(softmax.probabilities.astype(int).sum(0) - 255).max() <= 2
    assert np.abs(sigmoid.probabilities.astype(int).sum(0) - 255).max() > 20
    # the odds of two classes of a softmax are the ratio of the exponentials of their logits
    logits = torch.from_numpy(sigmoid.probabilities / 255.0).logit()
    expected = torch.from_numpy(softmax.probabilities / 255.0)
    torch.testing.assert_close(logits.softmax(0), expected, atol=0.02, rtol=0)
    _, view, of_log_odds = found[True]
    of_label = torch.from_numpy(sigmoid.probabilities).amax(0) / 255  # rounded, and a step more where two are alike
    torch.testing.assert_close(view.confidence.float(), of_label.float(), atol=1.6 / 255, rtol=0)
    torch.testing.assert_close(of_log_odds.confidence.float().sigmoid(), of_label.float(), atol=1.6 / 255, rtol=0)


def test_where_several_classes_are_certain_the_label_alone_has_the_whole_byte():
    logits = torch.tensor([[0.0, 90.0, -9.0], [90.0, 80.0, -9.0], [95.0, 90.0, -9.0]])
    winner = torch.tensor([2, 0, 1])
    stored = probability_bytes(logits, winner, independent=True)
    assert stored.T.tolist() == [[128, 254, 255], [255, 254, 254], [0, 1, 0]]
    assert probability_bytes(logits, winner).T.tolist()[2] == [85, 86, 85]


def test_an_image_that_a_transform_cannot_take_is_named(bundle, tmp_path):
    def fail(data: dict) -> dict:
        raise RuntimeError("no such axis")

    image = make_image(tmp_path / "ct.nii.gz")
    runner = BundleRunner(open_bundle(bundle), CPU)
    runner.bundle.preprocessing.transforms = [*runner.bundle.preprocessing.transforms, fail]
    with pytest.raises(DataError, match=r"ct\.nii\.gz: cannot be prepared \(no such axis\)"):
        runner.read([image])


ERRORS = {
    "ValueError": (ValueError("it is flat"), DataError, "ct.nii: it is flat"),
    "VolumeError": (VolumeError("is cut off", path="other.nii"), VolumeError, "other.nii: is cut off"),
    "MemoryError": (MemoryError(), DataError, "ct.nii: does not fit into memory, not even with the smallest windows"),
    "torch": (torch.OutOfMemoryError("CUDA"), DataError, "ct.nii: does not fit into memory"),
    "RuntimeError": (RuntimeError("a defect"), RuntimeError, "a defect"),
    "SaveError": (SaveError("the disk is full"), SaveError, "the disk is full"),
    "OutputError": (OutputError("is read-only"), OutputError, "is read-only"),
    "OSError": (OSError(28, "No space left"), OSError, "No space left"),
}


@pytest.mark.parametrize("what", ERRORS)
def test_what_goes_wrong_names_the_image(what):
    error, kind, words = ERRORS[what]
    with pytest.raises(kind) as caught, prediction_errors(Path("ct.nii")):
        raise error
    assert type(caught.value) is kind
    assert words in str(caught.value)


def test_an_image_that_the_machine_cannot_hold_is_refused(bundle, tmp_path, monkeypatch):
    image = make_image(tmp_path / "ct.nii.gz")
    runner = BundleRunner(open_bundle(bundle), CPU)
    headers = [read_header(image)]
    # int16 and as float64 as stored, 8 bytes a voxel twice at the model's spacing of 1.5 x 1.5 x 2 mm
    stored, resampled = 26 * 30 * 19, 21 * 22 * 24
    assert runner.check_memory(headers, image) >= stored * (2 + 8) + resampled * 8
    monkeypatch.setattr("os.sysconf", lambda name: 256)  # pages of 256 bytes, and as many
    with pytest.raises(
        DataError, match=r"ct\.nii\.gz: needs about 0\.0 GiB at the model's spacing, this machine has 0"
    ):
        runner.check_memory(headers, image)
