"""What the MONAI Label app is made of, without MONAI Label; the servers themselves are tested in `serving/tests`."""

from __future__ import annotations

import importlib.util
import json
import shutil
import socket
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from models import data_spec, labels_of, make_bundle, make_image
from tiny import FAST, write_dataset

from medseg.bundle.bundle import open_bundle
from medseg.cli.app import main
from medseg.errors import BundleError, ConfigError, DataError, MedsegError
from medseg.serve import prediction
from medseg.serve.active_learning import disagreement, overlap
from medseg.serve.models import Model, names_of, read_list
from medseg.serve.tasks.agreement import dice_of
from medseg.serve.tasks.consensus import choose_raters, fuse_study
from medseg.serve.training import learn as training
from medseg.serve.training import manifest as training_manifest
from medseg.serve.training import progress as training_progress
from medseg.serve.training.manifest import Studies, gather
from medseg.workflows.predict.run import predict
from medseg.workflows.train.run import train

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A trained run, and the data set that it was trained on."""
    folder = tmp_path_factory.mktemp("world")
    data = write_dataset(folder / "data")
    train("supervised", data, folder / "run", overrides=FAST, device="cpu")
    return folder


def model_of(world: Path, folder: Path) -> Model:
    return Model("run", world / "run", world / "run", folder / "run")


def studies_of(world: Path) -> Studies:
    """What a server has: two studies that the run did not see, with labels, and one without."""
    data = world / "data"
    cases = {f"case{i}": (data / f"case{i}.nii.gz", data / f"case{i}_label.nii.gz") for i in (4, 5)}
    return Studies(cases, {"case9": data / "case2.nii.gz"})


def command(capsys, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_the_line_that_starts_the_server(world, tmp_path, capsys):
    (tmp_path / "studies").mkdir()
    (tmp_path / "second").symlink_to(world / "run")
    given = ["--studies", tmp_path / "studies", "--models", world / "run", tmp_path / "renamed"]
    shutil.copytree(world / "run" / "bundle", tmp_path / "renamed")
    code, out, _ = command(capsys, "serve", *given, "--work", tmp_path / "work", "--print", "--port", 8123)
    assert code == 0
    assert " monailabel start_server --app " in out
    assert "--host 127.0.0.1 --port 8123" in out
    assert set(read_list(tmp_path / "work" / "app")) == {"run", "renamed"}
    assert "MedSegApp" in (tmp_path / "work" / "app" / "main.py").read_text()


def test_what_cannot_be_served_is_one_line(world, tmp_path, capsys):
    (tmp_path / "studies").mkdir()
    (tmp_path / "empty").mkdir()
    start = ["serve", "--work", tmp_path / "work", "--studies"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        mistakes = {
            "holds no bundle": [tmp_path / "studies", "--models", tmp_path / "empty"],
            "does not exist": [tmp_path / "studies", "--models", tmp_path / "nothing"],
            "no folder of studies": [tmp_path / "nothing", "--models", world / "run"],
            "another model called run": [tmp_path / "studies", "--models", world / "run", world / "run" / "bundle"],
            "choose another --port": [tmp_path / "studies", "--models", world / "run", "--port", port],
            "1 to 65535": [tmp_path / "studies", "--models", world / "run", "--port", 70000],
        }
        for words, arguments in mistakes.items():
            code, _, err = command(capsys, *start, *arguments)
            assert (code, err.count("\n")) == (2, 1), err
            assert err.startswith("error: ")
            assert words in err


def test_without_monai_label_it_says_where_to_find_it(world, tmp_path, capsys):
    if importlib.util.find_spec("monailabel"):
        pytest.skip("MONAI Label is installed here")
    (tmp_path / "studies").mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = ["--studies", tmp_path / "studies", "--models", world / "run", "--work", tmp_path / "w", "--port", port]
    code, _, err = command(capsys, "serve", *given)
    assert code == 2
    assert "docs/serving.md" in err


def test_a_served_study_has_the_voxels_of_predict(world, tmp_path):
    image = world / "data" / "case5.nii.gz"
    predict(world / "run", image, tmp_path / "out")
    told = prediction.predict_study(model_of(world, tmp_path), image, tmp_path / "served.nii.gz")
    ours, theirs = (nib.load(p) for p in (tmp_path / "out" / "case5.nii.gz", tmp_path / "served.nii.gz"))
    np.testing.assert_array_equal(ours.dataobj, theirs.dataobj)
    np.testing.assert_array_equal(ours.affine, theirs.affine)
    assert set(told["volumes_ml"]) == {"ball", "box"}


@pytest.mark.parametrize("name", ["", "auto", "auto?", "mps", "cuda:7"])
def test_devices_of_clients(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert prediction.device_names()[-1] == "cpu"
    if name in ("auto?", "mps"):
        with pytest.raises(ConfigError, match="auto"):
            prediction.device_called(name)
    else:
        assert prediction.device_called(name) == torch.device("cpu"), "clients ask for cuda always"


def test_studies_become_a_manifest(world, tmp_path):
    model = model_of(world, tmp_path)
    studies = studies_of(world)
    bad = tmp_path / "bad.nii.gz"
    image = nib.load(world / "data" / "case2.nii.gz")
    nib.save(nib.Nifti1Image(np.full(image.shape, 9, np.uint8), image.affine), bad)
    studies.labeled = {**studies.labeled, "worse": (world / "data" / "case2.nii.gz", bad)}
    studies.unusable = {"tilted": "has a tilted gantry"}
    found = gather(studies, model.bundle, model.run, tmp_path / "t", tmp_path / "held.json")
    manifest = found.manifest
    names = {s: {case.name for case in getattr(manifest, s)} for s in ("training", "validation", "unlabeled", "test")}
    assert "worse" in found.left_out
    assert found.left_out["tilted"] == "has a tilted gantry"
    assert names["training"] >= {"case0", "case1"}, "what was learned is not forgotten"
    assert names["test"] == set()
    assert names["unlabeled"] == {"case9", "case3"}, "case2 is case9 already"
    assert "case4" in names["validation"], "models were evaluated on it before"
    assert not names["training"] & names["validation"]
    held = set(json.loads((tmp_path / "held.json").read_text()))
    again = gather(studies, model.bundle, model.run, tmp_path / "t", tmp_path / "held.json").manifest
    assert {case.name for case in again.validation} == names["validation"]
    assert not held & {"case0", "case1"}, "no model is evaluated on what it learned"


def test_one_of_two_studies_is_held_out_if_there_is_no_validation_case(world, tmp_path):
    bundle = world / "run" / "bundle"
    model = Model("b", bundle, bundle, tmp_path)
    bundle = shutil.copytree(world / "run" / "bundle", tmp_path / "alone")  # without its run there are no other cases
    found = gather(studies_of(world), model.bundle, bundle, tmp_path / "t", tmp_path / "held.json").manifest
    assert len(found.training) == len(found.validation) == 1
    only = Studies(dict(list(studies_of(world).labeled.items())[:1]), {})
    with pytest.raises(DataError, match="at least two studies"):
        gather(only, model.bundle, bundle, tmp_path / "t", tmp_path / "other.json")


def trained_by(copy_of: Path, spoil: bool):
    """In place of training: a copy of a model, or of one with other weights."""

    def fake(arguments, run, iterations, say):
        assert arguments[arguments.index("--init-from") + 1]
        run.mkdir(parents=True)
        if spoil:
            make_bundle(run / "bundle", open_bundle(copy_of).data)
        else:
            shutil.copytree(copy_of, run / "bundle")

    return fake


def test_a_model_that_is_no_better_is_not_published(world, tmp_path, monkeypatch):
    model = model_of(world, tmp_path)
    monkeypatch.setattr(training, "run_training", trained_by(world / "run" / "bundle", spoil=False))
    for folder in ("0001/run", "0002/run", "0003/run"):  # of a finished one, and of two that were stopped
        (model.folder / folder).mkdir(parents=True)
    (model.folder / "0001" / "report.json").write_text("{}")
    service = model.folder / "service.json"
    shutil.copytree(world / "run" / "bundle", model.folder / "0003" / "run" / "bundle")
    model.publish(model.folder / "0003" / "run" / "bundle", 0.5)
    training._tidy(model)
    left = [(model.folder / f"000{n}" / "run").exists() for n in (1, 2, 3)]
    assert left == [True, False, True], "not what is in service, nor what is finished"
    service.unlink()
    report = training.learn(model, studies_of(world), {"iterations": 1})
    assert Path(report["folder"]).name == "0004"
    assert not (model.folder / "0003" / "run").exists()
    assert report["dice"] == report["dice_in_service"]
    assert not report["published"]
    assert model.place == model.run
    assert not (Path(report["folder"]) / "run").exists()


def test_a_better_model_goes_into_service_and_a_worse_one_does_not_replace_it(world, tmp_path, monkeypatch):
    bundle, bad = world / "run" / "bundle", tmp_path / "bad"
    shutil.copytree(world / "run", bad)
    make_bundle(bad / "bundle", open_bundle(bundle).data)  # as good as random weights are
    model = Model("bad", bad, bad, tmp_path / "served")
    first = model.bundle.digest
    scores = iter([0.2, 0.6, 0.6, 0.5])

    def evaluated(results, manifest, **_):
        assert list(results.glob("*.nii.gz"))
        return {"mean": {"dice_with_failures": {"mean": next(scores)}}}

    monkeypatch.setattr(training, "evaluate", evaluated)
    monkeypatch.setattr(training, "run_training", trained_by(bundle, spoil=False))
    assert training.learn(model, studies_of(world), {})["published"]
    assert model.bundle.digest == open_bundle(bundle).digest != first
    assert Model("bad", bad, bad, tmp_path / "served").bundle.digest == model.bundle.digest, "also after a new start"
    monkeypatch.setattr(training, "run_training", trained_by(bundle, spoil=True))
    report = training.learn(model, studies_of(world), {})
    assert (report["dice_in_service"], report["dice"], report["published"]) == (0.6, 0.5, False)
    assert model.bundle.digest == open_bundle(bundle).digest
    make_bundle(bad / "bundle", open_bundle(bundle).data, name="vnet")
    again = Model("bad", bad, bad, tmp_path / "served")
    assert again.place == bad, "what was trained from another model is not served"


def test_training_that_fails_says_why_and_two_at_once_are_refused(world, tmp_path, monkeypatch):
    model = model_of(world, tmp_path)
    with pytest.raises(ConfigError, match="iterations is 'many'"):
        training.learn(model, studies_of(world), {"iterations": "many"})
    with training._alone(model):
        with pytest.raises(ConfigError, match="being trained already"):
            training.learn(model, studies_of(world), {})
        training_progress.reporter(model.folder)({"status": "training"})
        assert training.state(model)["status"] == "training"
    assert training.state(model)["status"] == "stopped", "nobody is at it any more"
    copy = shutil.copytree(world / "run" / "bundle", tmp_path / "alone")
    alone = Model("b", copy, copy, tmp_path / "x")
    assert not training.can_learn(alone)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "pipeline.yaml").write_text("stages: nothing")
    damaged = Model("d", tmp_path / "damaged", copy, tmp_path / "y")
    assert not training.can_learn(damaged), "it is served all the same"
    with pytest.raises(ConfigError, match="without its run"):
        training.learn(alone, studies_of(world), {})
    if not torch.cuda.is_available():
        with pytest.raises(MedsegError, match="cuda:9"):
            training.learn(model, studies_of(world), {"iterations": 1, "device": "cuda:9"})
        assert training.state(model)["status"] == "failed"


def test_training_starts_from_a_models_weights(world, tmp_path):
    still = [*FAST, "stages.0.schedule.iterations=1", "stages.0.schedule.lr=1e-12"]
    run = train("supervised", world / "data" / "m.json", tmp_path / "again", overrides=still, start=world / "run")
    first, again = (open_bundle(folder).network.state_dict() for folder in (world / "run", run))
    for name, value in first.items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(again[name], value)
    with pytest.raises(BundleError, match="does not exist"):
        train("supervised", world / "data" / "m.json", tmp_path / "no", overrides=still, start=tmp_path / "nothing")
    with pytest.raises(ConfigError, match="started with another"):
        train("supervised", world / "data" / "m.json", run, overrides=still, resume=True)


def test_raters_of_a_study(tmp_path):
    tags = {t: tmp_path / t for t in ("rater-a", "rater-b", "final", "original")}
    assert set(choose_raters(tags)) == {"rater-a", "rater-b"}
    assert list(choose_raters(tags, "final, rater-b")) == ["final", "rater-b"]
    with pytest.raises(DataError, match="no label with the tag x"):
        choose_raters(tags, ["x"])
    with pytest.raises(DataError, match="tag of its own"):
        choose_raters({"rater-a": tmp_path})


def test_raters_are_fused(world, tmp_path):
    data = world / "data"
    label = nib.load(data / "case5_label.nii.gz")
    truth = np.asarray(label.dataobj)
    raters = {}
    for shift in (-1, 0, 1):
        raters[f"e{shift}"] = tmp_path / f"e{shift}.nii.gz"
        nib.save(nib.Nifti1Image(np.roll(truth, shift, 0), label.affine), raters[f"e{shift}"])
    fused, told = fuse_study(data / "case5.nii.gz", raters, tmp_path / "f", "majority")
    np.testing.assert_array_equal(nib.load(fused).dataobj, sorted_middle(truth))
    assert told["raters"] == ["e-1", "e0", "e1"]
    assert 0.5 < dice_of(fused, raters["e1"])["mean"] < dice_of(fused, fused)["mean"] == 1


def sorted_middle(truth: np.ndarray) -> np.ndarray:
    """Majority of three shifted maps, written slowly; where all differ the smallest label."""
    three = np.stack([np.roll(truth, s, 0) for s in (-1, 0, 1)])
    counts = np.stack([(three == value).sum(0) for value in range(3)])
    return counts.argmax(0)


def test_disagreement_of_views_and_of_models(world, tmp_path):
    image = make_image(tmp_path / "ct.nii.gz")
    places = [make_bundle(tmp_path / name, data_spec(), name=name) for name in ("unet", "vnet")]
    models = [Model(p.name, p, p, tmp_path / f"w{p.name}") for p in places]
    maps = []
    for place in places:
        predict(place, image, tmp_path / f"o{place.name}")
        maps.append(torch.from_numpy(labels_of(tmp_path / f"o{place.name}" / "ct.nii.gz").copy()))
    assert disagreement(models, image) == pytest.approx(1 - overlap(*maps))
    assert 0 < disagreement(models[:1], image) < 1, "of one network what it is unsure of"
    (tmp_path / "text.nii.gz").write_text("no image")
    with pytest.raises(DataError):
        disagreement(models, tmp_path / "text.nii.gz")
    one = torch.tensor([0, 1, 1, 2])
    assert overlap(one, one) == overlap(one * 0, one * 0) == 1
    assert overlap(one, torch.tensor([0, 1, 2, 0])) == pytest.approx(2 * 1 / (3 + 2))


def test_a_damaged_record_is_named(world, tmp_path):
    model = model_of(world, tmp_path)
    model.folder.mkdir(parents=True)
    (model.folder / "service.json").write_text("{")
    with pytest.raises(BundleError, match=r"service\.json.*remove it"):
        _ = model.bundle


def test_names_are_fit_for_addresses(tmp_path):
    assert set(names_of([tmp_path / "a b?", tmp_path / "c" / "bundle"])) == {"a_b_", "c"}
    assert training_manifest.ONE_IN > 1
