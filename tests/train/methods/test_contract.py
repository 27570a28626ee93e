"""What the contract of methods and rules makes possible, each shown by a small method from a manifest to a bundle."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import small_methods as small
import torch
import yaml
from forking import python
from given_networks import factory
from models import data_spec, make_bundle
from stock import elsewhere
from tiny import FAST, write_dataset

from medseg.bundle.bundle import open_bundle
from medseg.errors import ConfigError, ManifestError
from medseg.manifest.manifest import Manifest
from medseg.method import Frozen, Method, Stream
from medseg.workflows.evaluate.run import evaluate
from medseg.workflows.predict.run import predict
from medseg.workflows.train.run import train
from medseg.workflows.train.self_training.labelling.predict_maps import Predictors
from medseg.workflows.train.self_training.labelling.prediction_store import PredictionStore

pytestmark = pytest.mark.usefixtures("undrawn")

SMALL = Path(small.__file__)
QUICK = [change for change in FAST if "batch" not in change]
SCHEDULE = {"iterations": 3, "lr": 0.01, "workers": 0}
NETWORK = {"name": "unet", "width": 4}
DATA = {"patch": [16, 16, 16]}


def changed(manifest: Path, name: str, change) -> Path:
    """A copy of a manifest beside it, with its content changed in place."""
    content = json.loads(manifest.read_text())
    change(content)
    path = manifest.with_name(name)
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), labeled=3, unlabeled=3)


@pytest.fixture(scope="module")
def weak(manifest) -> Path:
    """Training cases with tags and a saliency map, and no label."""

    def change(content: dict) -> None:
        tags = [["ball"], ["ball", "box"], {"ball": True, "box": False}]
        for case, of_case in zip(content["training"], tags, strict=True):
            image = nib.load(manifest.parent / case["image"])
            saliency = (np.asarray(nib.load(manifest.parent / case.pop("label")).dataobj) > 0).astype(np.float32)
            name = case["image"].replace(".nii.gz", "_saliency.nii.gz")
            nib.save(nib.Nifti1Image(saliency, image.affine), manifest.parent / name)
            case |= {"tags": of_case, "maps": {"saliency": name}}

    return changed(manifest, "weak.json", change)


def write_task(path: Path, *stages: dict) -> str:
    path.write_text(yaml.safe_dump({"name": path.stem, "stages": list(stages), "data": DATA}))
    return str(path)


def stage(method: str, **more) -> dict:
    return {"method": {"name": method}, "network": NETWORK, "schedule": SCHEDULE, **more}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "models" / "model.pt", weights_only=True)


def test_tags_and_maps_train_a_network_that_runs_without_medseg(weak, tmp_path):
    run = train("supervised", weak, tmp_path / "run", overrides=QUICK, method=small.TagsAndMaps, device="cpu")
    state = torch.load(run / "last.pt", weights_only=True)["method"]
    batch = yaml.safe_load((run / "pipeline.yaml").read_text())["stages"][0]["schedule"]["batch"]
    assert batch["weak"] == 3
    assert int(state["seen"].sum()) == 6 * batch["weak"], "each image tells its number"
    assert all(bool(torch.isfinite(value).all()) for value in state.values())
    code = (
        "import torch\n"
        "from monai.bundle import ConfigParser\n"
        "parser = ConfigParser(); parser.read_config('configs/inference.json'); parser['bundle_root'] = '.'\n"
        "network = parser.get_parsed_content('network')\n"
        "network.load_state_dict(torch.load('models/model.pt', weights_only=True))\n"
        "print(tuple(network(torch.zeros(1, 1, 16, 16, 16)).shape))\n"
    )
    assert elsewhere(run / "bundle", "-c", code).stdout.strip().endswith("(1, 3, 16, 16, 16)")
    report = predict(run, weak, tmp_path / "out", section="test")
    assert not report["failed"]


def test_a_stream_that_the_data_set_lacks_is_named_when_the_run_is_planned(manifest, weak, tmp_path):
    with pytest.raises(ManifestError, match=r"no case with tags .* under 'training', which TagsAndMaps learns"):
        train("supervised", manifest, tmp_path / "run", overrides=QUICK, method=small.TagsAndMaps, device="cpu")
    without = changed(weak, "without.json", lambda content: content["training"][1].pop("maps"))
    with pytest.raises(ManifestError, match=r"needs a map called 'saliency' of each weak case; 1 have none.*case1"):
        train("supervised", without, tmp_path / "run", overrides=QUICK, method=small.TagsAndMaps, device="cpu")
    with pytest.raises(ManifestError, match="no labelled case under 'training', which supervised learns from"):
        train("supervised", weak, tmp_path / "run", overrides=QUICK, device="cpu")
    alone = changed(manifest, "alone.json", lambda content: content.update(unlabeled=[]))
    task = write_task(tmp_path / "two.yaml", stage("Rotation"), stage("supervised", init="previous"))
    with pytest.raises(ManifestError, match="no unlabelled case, which Rotation learns from"):
        train(task, alone, tmp_path / "run", method=small.Rotation, device="cpu")


def test_groups_that_the_data_set_or_the_batch_cannot_have_are_refused(weak, tmp_path):
    words = r"stages\.0\.schedule\.batch\.weak is 4; TagsAndMaps makes groups of 3 images that share a tag"
    changes = [*QUICK, "stages.0.schedule.batch.weak=4"]
    with pytest.raises(ConfigError, match=words):
        train("supervised", weak, tmp_path / "run", overrides=changes, method=small.TagsAndMaps, device="cpu")

    def change(content: dict) -> None:
        for case, tags in zip(content["training"], ([], ["ball"], {"box": True}), strict=True):
            case["tags"] = tags

    apart = changed(weak, "apart.json", change)
    with pytest.raises(ManifestError, match="TagsAndMaps makes groups of 3 weak cases that share a tag, and no two do"):
        train("supervised", apart, tmp_path / "run", overrides=QUICK, method=small.TagsAndMaps, device="cpu")


class Scribbles(small.Distilled):
    """A stream that no data set has."""

    streams = (Stream("scribbles", ("label",)),)


def test_a_stream_that_is_none_is_refused_by_name(manifest, tmp_path):
    words = "method Scribbles has the stream 'scribbles'; accepted are labeled, weak, unlabeled"
    with pytest.raises(ConfigError, match=words):
        train("supervised", manifest, tmp_path / "run", overrides=QUICK, method=Scribbles, device="cpu")


def test_a_stage_without_a_segmenter_prepares_the_next_one(manifest, tmp_path, capsys):
    task = write_task(
        tmp_path / "pretext.yaml",
        stage("Rotation"),
        stage("supervised", init="previous", schedule={**SCHEDULE, "iterations": 1, "lr": 1e-12}),
    )
    run = train(task, manifest, tmp_path / "run", method=small.Rotation, device="cpu")
    assert not (run / "stage0" / "bundle" / "configs").exists()
    first = torch.load(run / "stage0" / "bundle" / "model.pt", weights_only=True)
    later = weights(run / "bundle")
    name = "model.0.conv.unit0.conv.weight"
    assert torch.allclose(later[name], first[f"network.{name}"], atol=1e-6)
    assert "starts from" in capsys.readouterr().err
    resumed = train(task, manifest, run, method=small.Rotation, device="cpu", resume=True)
    assert resumed == run
    with pytest.raises(ConfigError, match="the last stage makes no segmenter: Rotation only prepares weights"):
        train(write_task(tmp_path / "one.yaml", stage("Rotation")), manifest, tmp_path / "x", method=small.Rotation)


def test_a_rule_that_looks_at_all_labels_cases_for_the_next_stage(manifest, tmp_path, monkeypatch):
    from medseg.workflows.train.self_training.labelling.predict_views import Voter

    predicted = []
    original = Voter.both

    def counted(self, images):
        predicted.append(Path(images[0]).name)
        return original(self, images)

    monkeypatch.setattr(Voter, "both", counted)
    task = write_task(
        tmp_path / "then.yaml",
        stage("supervised", then={"rule": {"name": "LargestHalf"}}),
        stage("supervised", init="previous"),
    )
    run = train(task, manifest, tmp_path / "run", method=small.LargestHalf, device="cpu")
    assert sorted(predicted) == ["case3.nii.gz", "case4.nii.gz", "case5.nii.gz"], "each case is predicted once"
    labels = run / "stage0" / "labels"
    made = Manifest.load(labels / "manifest.json")
    summaries = {path.stem: json.loads(path.read_text())["notes"] for path in (labels / "summaries").glob("*.json")}
    sizes = {name: notes["summary"]["foreground"] for name, notes in summaries.items()}
    mean = sum(sizes.values()) / len(sizes)
    pseudo = [case.name for case in made.training if (case.model_extra or {}).get("pseudo")]
    assert sorted(pseudo) == sorted(name for name, size in sizes.items() if size >= mean)
    assert sorted(case.name for case in made.unlabeled) == sorted(name for name, size in sizes.items() if size < mean)
    assert not (labels / "predictions").exists()
    train(task, manifest, run, method=small.LargestHalf, device="cpu", resume=True)
    assert len(predicted) == 3, "nothing is done again"


class Unfinished(small.Rotation):
    """Neither a segmenter nor anything for the next stage."""

    pretrained = Method.pretrained


def test_a_stage_that_leaves_nothing_is_refused(manifest, tmp_path):
    task = write_task(tmp_path / "nothing.yaml", stage("Unfinished"), stage("supervised", init="previous"))
    with pytest.raises(ConfigError, match="Unfinished makes no segmenter and has no pretrained"):
        train(task, manifest, tmp_path / "run", method=Unfinished, device="cpu")


def test_kept_predictions_are_those_of_the_same_networks_and_images(manifest, tmp_path):
    bundles = [make_bundle(tmp_path / name, data_spec(modality=("MR",)), name=name) for name in ("unet", "vnet")]
    data, rule = Manifest.load(manifest), small.LargestHalf(3)
    case = data.unlabeled[0]

    def predict_by(bundle: Path) -> torch.Tensor:
        store = PredictionStore(Predictors(bundle), torch.device("cpu"), rule, tmp_path / "kept")
        try:
            with store:
                found = store.predict(data, case).labels[0].clone()
                raise InterruptedError
        except InterruptedError:  # a run that was stopped keeps what there is
            return found

    first = predict_by(bundles[0])
    written = (tmp_path / "kept" / case.name / "label0.npy").stat().st_mtime_ns
    assert torch.equal(predict_by(bundles[0]), first)
    assert (tmp_path / "kept" / case.name / "label0.npy").stat().st_mtime_ns == written
    assert not torch.equal(predict_by(bundles[1]), first)


def test_the_network_before_is_asked_and_not_trained():
    earlier = factory(3).segmenter()
    method = small.Distilled(factory(3, previous=Frozen(earlier, ("background", "class1", "class2")), start=True))
    assert isinstance(method, Method)
    assert not any(name.startswith("previous") for name in method.state_dict())
    own = {id(parameter) for parameter in method.parameters()}
    assert not own & {id(parameter) for parameter in earlier.parameters()}
    assert not any(parameter.requires_grad for parameter in earlier.parameters())
    method.train()
    assert not earlier.training
    started = method.network.state_dict()
    assert all(torch.equal(value, started[name]) for name, value in earlier.state_dict().items())


@pytest.mark.slow
def test_two_processes_that_start_from_a_network_agree(manifest, tmp_path):
    first = train("supervised", manifest, tmp_path / "first", overrides=FAST, device="cpu")
    launcher = [python(), "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "medseg"]
    sets = [part for change in [*QUICK, "stages.0.schedule.batch={labeled: 1}"] for part in ("--set", change)]
    arguments = ["train", "--task", "supervised", "--method", f"{SMALL}:Distilled", "--data", manifest,
                 "-o", tmp_path / "run", "--device", "cpu", "--init-from", first, *sets]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "SPY_FOLDER": str(tmp_path)}
    done = subprocess.run(
        [*launcher, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "rank0").read_text() == (tmp_path / "rank1").read_text()
    assert (tmp_path / "run" / "bundle" / "models" / "model.pt").exists()


def test_a_segmenter_that_cannot_be_exported_is_refused_before_training(manifest, tmp_path):
    with pytest.raises(ConfigError, match=r"segmenter\(\) gives a Conv3d that cannot be exported; make its parts by"):
        train("supervised", manifest, tmp_path / "run", overrides=FAST, method=small.OwnNetwork, device="cpu")
    assert not (tmp_path / "run" / "last.pt").exists()


def test_classes_grow_by_the_names_of_structures(manifest, tmp_path, capsys):
    first = train("supervised", manifest, tmp_path / "first", overrides=FAST, device="cpu")

    def change(content: dict) -> None:
        content["labels"] = {"0": "background", "1": "tumour", "2": "box", "3": "ball"}

    grown = changed(manifest, "grown.json", change)
    still = [*FAST, "stages.0.schedule.iterations=1", "stages.0.schedule.lr=1.0e-12"]
    run = train("supervised", grown, tmp_path / "run", overrides=still, init_from=first, device="cpu")
    old, new = weights(first / "bundle"), weights(run / "bundle")
    name = "model.2.1.conv.unit0.conv.weight"  # from classes to classes
    for at, before in ((0, 0), (2, 2), (3, 1)):
        assert torch.allclose(new[name][at, at], old[name][before, before], atol=1e-6)
    said = capsys.readouterr().err
    assert "of them by the names of structures" in said
    planes = [*QUICK, "data.view=axial", "data.patch=[16,16,1]"]
    with pytest.raises(ConfigError, match="the network to start from sees volumes, this one planes"):
        train("supervised", manifest, tmp_path / "planes", overrides=planes, init_from=first, device="cpu")


def test_the_former_name_of_the_option_still_works(manifest, tmp_path, capsys):
    first = train("supervised", manifest, tmp_path / "first", overrides=FAST, device="cpu")
    train("supervised", manifest, tmp_path / "run", overrides=FAST, start=first, device="cpu")
    assert "--start is now called --init-from" in capsys.readouterr().err


def test_data_sets_with_different_labels_train_one_network(manifest, tmp_path):
    """Of two cases the label knows balls alone, of one boxes alone, as if three hospitals had outlined them."""

    def change(content: dict) -> None:
        for case, covered in zip(content["training"], (["ball"], ["ball"], ["box"]), strict=True):
            case["classes"] = covered
        content["validation"][0]["classes"] = ["ball"]
        content["test"][0]["classes"] = ["box"]

    partly = changed(manifest, "partly.json", change)
    run = train("supervised", partly, tmp_path / "run", overrides=FAST, device="cpu")
    validations = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    validated = [record for record in validations if record["kind"] == "validation"]
    assert validated[-1]["classes"]["box"] is None
    assert validated[-1]["classes"]["ball"] is not None
    predict(run, partly, tmp_path / "out", section="test")
    report = evaluate(tmp_path / "out", partly, tmp_path / "evaluation", section="test")
    assert report["cases"][0]["classes"].keys() == {"box"}
    assert open_bundle(run / "bundle").data.classes == 3


def test_pretrained_weights_come_from_a_file_and_are_recorded(manifest, tmp_path):
    first = train("supervised", manifest, tmp_path / "first", overrides=FAST, device="cpu")
    file = first / "bundle" / "models" / "model.pt"
    still = [*FAST, "stages.0.schedule.iterations=1", "stages.0.schedule.lr=1.0e-12"]
    given = f"stages.0.network.weights={{file: '{file}', licence: none}}"
    run = train("supervised", manifest, tmp_path / "run", overrides=[*still, given], device="cpu")
    recorded = yaml.safe_load((run / "pipeline.yaml").read_text())["stages"][0]["network"]["weights"]
    assert len(recorded["sha256"]) == 64
    old, new = weights(first / "bundle"), weights(run / "bundle")
    learnt = [name for name in old if "running" not in name and "num_batches" not in name]
    assert all(torch.allclose(new[name], old[name], atol=1e-5) for name in learnt)
    wrong = given.replace("licence", f"sha256: '{'0' * 64}', licence")
    with pytest.raises(ConfigError, match=r"network\.weights: SHA-256 is .*, the pipeline says 000000000000"):
        train("supervised", manifest, tmp_path / "x", overrides=[*still, wrong], device="cpu")
    text = tmp_path / "text.pt"
    text.write_text("no weights")
    with pytest.raises(ConfigError, match=r"text\.pt: network\.weights: is no file of weights"):
        train("supervised", manifest, tmp_path / "x", overrides=[*still, given.replace(str(file), str(text))])
