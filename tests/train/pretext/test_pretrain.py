"""`medseg pretrain`: from images without labels to an encoder that other trainings start from."""

from __future__ import annotations

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import write_dataset
from typer.testing import CliRunner

import medseg
from medseg.bundle.bundle import open_bundle
from medseg.cli.app import app
from medseg.errors import BundleError, ConfigError, ManifestError, MedsegError
from medseg.manifest.manifest import Manifest
from medseg.workflows.train import pretrain as pretraining
from medseg.workflows.train import settings
from medseg.workflows.train.checks.files import find_warnings
from medseg.workflows.train.encoder import open_encoder, open_start
from medseg.workflows.train.pretrain import load_pretraining, pretrain, without_unplaced
from medseg.workflows.train.run import train
from medseg.workflows.train.settings import shipped_pretraining

SMALL = ["stages.0.schedule.iterations=3", "stages.0.network.width=4", "data.patch=[16,16,16]",
         "stages.0.schedule.workers=0"]  # fmt: skip


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def encoder(manifest, tmp_path_factory):
    return pretrain("rotation", manifest, tmp_path_factory.mktemp("runs") / "rotation", overrides=SMALL)


def test_all_training_images_are_seen_and_labels_teach_nothing(manifest, encoder, tmp_path):
    described = json.loads((encoder / "encoder.json").read_text())
    assert described["images"] == ["case0", "case1", "case2", "case3"]  # case4 and case5 are validation and test
    assert described["task"] == "rotation"
    assert not (encoder.parent / "bundle").exists()
    shutil.copytree(manifest.parent, tmp_path / "data")
    for label in (tmp_path / "data").glob("*_label.nii.gz"):
        image = nib.load(label)
        nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), label)
    other = medseg.pretrain("rotation", tmp_path / "data" / "m.json", tmp_path / "run", overrides=SMALL)
    assert other == tmp_path / "run" / "encoder"
    one, same = (torch.load(folder / "model.pt", weights_only=True) for folder in (encoder, other))
    assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())


def test_a_set_is_taken_without_a_background_where_the_task_says_so(manifest, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(pretraining, "train_one", lambda pipeline, run, *others: seen.append(run.manifest))
    monkeypatch.setattr(pretraining, "_describe", lambda *given: None)
    monkeypatch.setattr(pretraining, "_write_report", lambda *given: None)
    for changes in ([], ["data.has_background=false"]):
        pretrain("exemplar", manifest, tmp_path / "run", overrides=[*SMALL, *changes], device="cpu")
    assert [each.has_background for each in seen] == [True, False]


def test_tensorboard_has_pictures(encoder):
    (file,) = encoder.parent.rglob("events.out.*")
    events = EventAccumulator(str(file)).Reload()
    assert events.Tags()["images"] == ["pictures/rotations"]
    assert [event.step for event in events.Images("pictures/rotations")] == [3]


def test_its_page_has_curves_and_says_what_to_do_with_the_encoder(encoder):
    page = (encoder.parent / "report.html").read_text()
    assert "An encoder, which finds no structure by itself" in page
    assert "<code>medseg train --init-from</code>" in page
    assert "<h2>Curves</h2>" in page
    assert "validation Dice" not in page
    assert "medseg predict" not in page


def test_images_without_an_orientation_are_left_out(manifest, tmp_path, capfd):
    shutil.copytree(manifest.parent, tmp_path / "data")
    found = Manifest.load(tmp_path / "data" / "m.json")
    assert without_unplaced(found) is found
    for name in ("case0", "case3"):
        path = tmp_path / "data" / f"{name}.nii.gz"
        image = nib.load(path)
        header = image.header.copy()
        header.set_sform(None, 0)
        header.set_qform(None, 0)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, header), path)
    left = without_unplaced(found)
    assert [case.name for case in (*left.training, *left.unlabeled)] == ["case1", "case2"]
    assert len(left.validation) == len(found.validation)
    assert "2 images have no orientation in their header and are left out: case0" in capfd.readouterr().err
    asked = (
        "2 of 4 training images have no orientation in their header (case0, ...), and s4l asks which way up they are"
    )
    assert asked in find_warnings(settings.load("s4l"), found)
    control = settings.load("s4l", ("stages.0.method.options.rotation=0",))
    for pipeline in (control, settings.load("supervised")):
        assert not any("orientation" in line for line in find_warnings(pipeline, found))
    for case in (*left.training, *left.unlabeled):
        shutil.copy(tmp_path / "data" / "case0.nii.gz", left.images(case)[0])
    with pytest.raises(ManifestError, match="no training image has an orientation in its header"):
        without_unplaced(found)


def test_another_training_takes_the_encoder_alone(manifest, encoder, tmp_path, capfd):
    overrides = [*SMALL, "stages.0.schedule.lr=1e-30", "stages.0.schedule.weight_decay=0"]
    run = train("supervised", manifest, tmp_path / "run", overrides=overrides, init_from=encoder.parent)
    assert f"starts from {encoder}: " in capfd.readouterr().err
    opened = open_encoder(encoder)
    learnt = opened.open().network.state_dict()
    got = torch.load(run / "bundle" / "models" / "model.pt", weights_only=True)
    weights = [name for name in opened.tensors if name.endswith("weight")]
    assert weights
    for name in weights:
        assert torch.equal(got[name.removeprefix("network.")], learnt[name])
    others = [name for name in learnt if name.endswith("weight") and name not in opened.tensors]
    changed = [
        name for name in others if not torch.equal(got.get(name.removeprefix("network."), learnt[name]), learnt[name])
    ]
    assert changed


def test_a_finished_run_is_not_begun_again_and_a_bundle_is_a_start_too(manifest, encoder):
    digest = open_encoder(encoder).digest
    assert pretrain("rotation", manifest, encoder.parent, overrides=SMALL, resume=True) == encoder
    assert open_encoder(encoder).digest == digest
    assert open_start(encoder).digest == open_start(encoder.parent).digest
    with pytest.raises(BundleError, match="holds no bundle"):
        open_start(manifest.parent)


def refuse(message: str, *arguments, **keywords) -> None:
    with pytest.raises(MedsegError, match=message):
        train(*arguments, **keywords)


def test_an_encoder_of_other_images_is_refused(manifest, encoder, tmp_path):
    plane = [*SMALL[:2], "data.view=axial", "data.patch=[16,16,1]"]
    refuse("encoder was trained on volumes, this network sees planes",
           "supervised", manifest, tmp_path / "a", overrides=plane, init_from=encoder)  # fmt: skip
    two = json.loads(manifest.read_text())
    two["modality"] = {"0": "MR", "1": "MR2"}
    for section in ("training", "unlabeled", "validation", "test"):
        for case in two[section]:
            case["image"] = [case["image"], case["image"]]
    path = manifest.with_name("two.json")
    path.write_text(json.dumps(two))
    refuse("trained on images of 1 channels, this network sees 2",
           "supervised", path, tmp_path / "b", overrides=SMALL, init_from=encoder)  # fmt: skip
    wider = [*SMALL, "stages.0.network.width=8"]
    refuse(
        "encoder is that of a unet of width 4, this network is a unet of width 8",
        "supervised",
        manifest,
        tmp_path / "c",
        overrides=wider,
        init_from=encoder,
    )
    assert not any((tmp_path / name).exists() for name in "abc")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("norm=instance", r"norm batch, this network instance; .*--set stages.0.network.options.norm=batch$"),
        ("num_res_units=1", "num_res_units 2, this network 1"),
        ("channels=[4,8]", r"channels \[4,8,16\], this network \[4,8\]; .*or --set data.patch=\[16,16,16\]"),
    ],
)
def test_an_encoder_of_other_layers_is_refused(changed, message, manifest, encoder, tmp_path):
    own = [*SMALL, f"stages.0.network.options.{changed}"]
    if changed.startswith("channels"):
        own.append("stages.0.network.options.strides=[2]")
    refuse(f"encoder's unet has {message}", "supervised", manifest, tmp_path / "a", overrides=own, init_from=encoder)
    assert not (tmp_path / "a").exists()


def test_an_encoder_has_a_place_where_only_the_steps_differ(encoder):
    opened = open_encoder(encoder)
    thick = opened.network.model_copy(update={"options": {"norm": "batch", "strides": [[2, 2, 2], [2, 2, 1]]}})
    opened.check_fits(thick, opened.data)


def test_what_pretraining_leaves_does_not_predict_and_says_so(encoder):
    for folder in (encoder, encoder.parent):
        with pytest.raises(BundleError, match="medseg pretrain leaves segments nothing; medseg train --init-from"):
            open_bundle(folder)


def test_an_encoder_that_was_exchanged_is_refused(encoder, tmp_path):
    copied = tmp_path / "encoder"
    shutil.copytree(encoder, copied)
    state = torch.load(copied / "model.pt", weights_only=True)
    torch.save({name: tensor + 1 for name, tensor in state.items()}, copied / "model.pt")
    with pytest.raises(BundleError, match="damaged or was exchanged"):
        open_encoder(copied)


def test_an_encoder_of_foreign_code_is_refused(encoder, tmp_path):
    copied = tmp_path / "encoder"
    shutil.copytree(encoder, copied)
    (copied / "network.json").write_text(json.dumps({"_target_": "subprocess.run", "args": ["true"]}))
    with pytest.raises(BundleError, match=r"network.json"):
        open_encoder(copied).open()


@pytest.mark.parametrize(
    ("command", "task", "message"),
    [
        ("train", "rotation", "task 'rotation' is not known; one of .*medseg pretrain has it"),
        (
            "pretrain",
            "supervised",
            "task 'supervised' is not known; one of exemplar, inpainting, rotation.*medseg train has it",
        ),
        ("pretrain", "nonsense", "task 'nonsense' is not known; one of exemplar, inpainting, rotation, or the path"),
    ],
)
def test_a_task_of_the_other_command(manifest, tmp_path, command, task, message):
    arguments = [command, "--task", task, "--data", str(manifest), "--output", str(tmp_path / "run")]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, ConfigError)
    with pytest.raises(ConfigError, match=message):
        raise result.exception


def test_methods_that_make_the_other_thing_are_refused(manifest, tmp_path):
    task = tmp_path / "task.yaml"
    task.write_text("name: x\nstages: [{method: {name: supervised}, network: {name: unet, width: 4}}]\n")
    with pytest.raises(ConfigError, match="supervised makes a segmenter, no encoder; medseg train trains it"):
        pretrain(str(task), manifest, tmp_path / "a", overrides=["data.patch=[16,16,16]"])
    task.write_text("name: x\nstages: [{method: {name: rotation}, network: {name: unet, width: 4}}]\n")
    refuse("rotation only prepares weights; medseg pretrain makes an encoder of it",
           str(task), manifest, tmp_path / "b", overrides=["data.patch=[16,16,16]"])  # fmt: skip


def test_one_image_in_a_batch_cannot_be_told_apart_which_the_plan_says(manifest, tmp_path):
    one = [*SMALL, "stages.0.schedule.batch.all=1"]
    message = r"stages.0.schedule.batch.all is 1; exemplar tells the images of a batch apart; accepted are 2 and more"
    with pytest.raises(ConfigError, match=message):
        pretrain("exemplar", manifest, tmp_path / "run", overrides=one)
    assert not (tmp_path / "run").exists()


def test_several_stages_are_refused(tmp_path):
    task = tmp_path / "task.yaml"
    task.write_text("name: x\nstages: [{method: {name: rotation}}, {method: {name: rotation}}]\n")
    with pytest.raises(ConfigError, match="several stages, views or rounds"):
        load_pretraining(str(task))


@pytest.mark.parametrize("task", shipped_pretraining())
def test_every_shipped_pretraining_runs_in_a_plane(task, manifest, tmp_path):
    plane = [*SMALL[:2], "data.view=axial", "data.patch=[16,16,1]", "stages.0.schedule.workers=0"]
    encoder = pretrain(task, manifest, tmp_path / "run", overrides=plane)
    opened = open_encoder(encoder)
    assert opened.data.spatial_dims == 2
    trains_decoder = len(opened.tensors) == len(opened.open().network.state_dict())
    assert trains_decoder == (task == "inpainting")
