"""Rules that work on a method's own maps: what they are given, what they make, and what the next stage finds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import small_methods as small
import torch
import yaml
from tagged import write_tagged

from medseg import methods
from medseg.config.pipeline import DataSpec
from medseg.data.preprocessing_config import instantiate, preprocessing
from medseg.errors import ConfigError, ManifestError
from medseg.manifest.labelling import cases_to_label, is_pseudo
from medseg.manifest.manifest import Manifest, streams_of
from medseg.method import IGNORE, Method, Predictions, PseudoLabels
from medseg.workflows.data.check import check_manifest
from medseg.workflows.train import settings
from medseg.workflows.train.run import train
from medseg.workflows.train.self_training.labelling.predict_maps import MapPredictor
from medseg.workflows.train.self_training.labelling.pseudo_labels import PseudoLabeller
from medseg.workflows.train.self_training.report.map_slices import colour_maps, evenly_chosen, map_slice, read_map_slice
from medseg.workflows.train.stages.maps import SavedMaps

pytestmark = pytest.mark.usefixtures("undrawn")

EXAMPLE = Path(__file__).parents[3] / "examples" / "tags_only.py"
SCHEDULE = {"iterations": 2, "lr": 0.01, "workers": 0}
NETWORK = {"name": "unet", "width": 4}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tagged(tmp_path_factory) -> Path:
    return write_tagged(tmp_path_factory.mktemp("data"))


def stage(method: str, rule: str | None = None, **more) -> dict:
    then = {} if rule is None else {"then": {"rule": {"name": rule}, "cases": ["weak", "pseudo"]}}
    return {"method": {"name": method}, "network": NETWORK, "schedule": SCHEDULE, **then, **more}


def write_task(path: Path, *stages: dict, **data) -> str:
    content = {"name": path.stem, "stages": list(stages), "data": data or {"patch": [16, 16, 16]}}
    path.write_text(yaml.safe_dump(content))
    return str(path)


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def test_the_rule_of_the_example_by_hand():
    sys.path.insert(0, str(EXAMPLE.parent))
    try:
        from tags_only import MapsOfTags
    finally:
        sys.path.remove(str(EXAMPLE.parent))
    # the first map has the maximum 4, the second 10, whose tag is absent
    first = torch.tensor([4.0, 2.4, 1.6, 0.4, -3.0])
    second = torch.tensor([0.0, 10.0, 10.0, 10.0, 10.0])
    maps = torch.stack([first, second]).reshape(2, 5, 1, 1).half()
    rule = MapsOfTags(3)
    made = rule.label(Predictions((), (), tags={1: True, 2: False}, maps=[maps]), {}, 1)
    assert made.flatten().tolist() == [1, 1, IGNORE, 0, 0]  # shares 1, 0.6, 0.4, 0.1, 0
    both = rule.label(Predictions((), (), tags={1: True, 2: True}, maps=[maps]), {}, 1)
    assert both.flatten().tolist() == [1, 2, 2, 2, 2]
    unknown = rule.label(Predictions((), (), tags={1: True}, maps=[maps]), {}, 1)
    assert unknown.flatten().tolist() == [1, IGNORE, IGNORE, IGNORE, IGNORE]
    nothing = rule.label(Predictions((), (), tags={1: False, 2: False}, maps=[maps]), {}, 1)
    assert nothing.flatten().tolist() == [0] * 5
    assert rule.label(Predictions((), (), maps=[maps]), {}, 1) is None


@pytest.mark.parametrize("plane", [False, True])
def test_maps_lie_on_the_grid_of_the_file(tmp_path, plane):
    """Windows as large as the image: what the rule gets is what the module gives, voxel for voxel."""
    manifest = Manifest.load(write_tagged(tmp_path, shape=(16, 32, 4), spacing=(1, 1, 2)))
    view = {"view": "axial", "patch": [16, 32, 1], "slices": 1} if plane else {"patch": [16, 32, 16]}
    data = DataSpec(labels=manifest.labels, modality=["MR"], spacing_mm=[1, 1, 2], **view)
    task = write_task(tmp_path / "task.yaml", stage("Tagger"))
    with methods.use_methods(methods.locate_methods(small.Tagger)):
        of_stage = settings.load(task).stages[0]
        torch.manual_seed(0)
        from medseg.workflows.train.stages.build import build_method
        from medseg.workflows.train.stages.maps import save_maps

        method = build_method(of_stage, data)
        save_maps(tmp_path / "maps.pt", method)
        case = manifest.training[0]
        (found,) = MapPredictor([SavedMaps(tmp_path / "maps.pt", of_stage, data, None)], CPU)(
            manifest.images(case), tmp_path
        )
    assert found.dtype == torch.float16
    assert tuple(found.shape) == (2, 16, 32, 4)
    image = instantiate(preprocessing(data))({"image": str(manifest.images(case)[0])})["image"].as_tensor()
    module = method.maps().eval()
    with torch.no_grad():
        if plane:
            expected = module(image.permute(3, 0, 1, 2)).permute(1, 2, 3, 0)
        else:
            padded = torch.nn.functional.pad(image, (6, 6), value=float(image.min()))
            expected = module(padded[None])[0, ..., 6:10]
    # the files are stored LPS
    assert torch.allclose(found.float(), expected.flip(1, 2), atol=2e-3)


def test_a_classifier_of_tags_labels_for_a_segmenter(tagged, tmp_path, capsys):
    task = write_task(tmp_path / "tags.yaml", stage("Tagger", "MapsOfTags"), stage("supervised"))
    run = train(task, tagged, tmp_path / "run", method=[small.Tagger, f"{EXAMPLE}:MapsOfTags"], device="cpu")
    said = capsys.readouterr().err
    assert "then labels weak, pseudo cases by MapsOfTags" in " ".join(said.replace("│", " ").split())
    assert "have tags only, from which" not in said
    assert (run / "bundle" / "models" / "model.pt").exists()
    assert not (run / "stage0" / "bundle").exists(), "a stage without a segmenter leaves its maps alone"
    assert (run / "stage0" / "labels" / "overview.png").read_bytes().startswith(b"\x89PNG")
    slices = [read_map_slice(run / "stage0" / "labels" / "pseudo" / f"case{n}_maps.npz") for n in range(3)]
    assert [each.shape for each in slices] == [(2, 24, 20)] * 3
    assert [bool(each.any()) for each in slices[1:]] == [True, False], (
        "classes that are known to be absent are not shown"
    )
    assert not slices[1][1].any()
    made = Manifest.load(run / "stage0" / "labels" / "manifest.json")
    groups = streams_of(made)
    assert [case.name for case in groups["labeled"]] == ["case0", "case1", "case2"]
    assert not groups["weak"]
    assert [made.presence(case) for case in groups["labeled"]] == [
        {1: True, 2: True}, {1: True, 2: False}, {1: False, 2: False}
    ]  # fmt: skip
    found = [set(np.unique(voxels(made.label(case))).tolist()) for case in groups["labeled"]]
    assert {1, 2} <= found[0] <= {0, 1, 2, 255}
    assert 1 in found[1]
    assert 2 not in found[1]
    assert found[2] == {0}
    assert [case.name for case in cases_to_label(groups, ("pseudo",))] == ["case0", "case1", "case2"]
    report = check_manifest(run / "stage0" / "labels" / "manifest.json")
    assert report.learnable == {"labeled": 3, "weak": 0, "unlabeled": 1}
    assert not [problem for problem in report.problems if problem.severity == "error"]


def three_stages(folder: Path) -> str:
    """Labels and a map of the classifier's maps; then again of the next stage's own."""
    return write_task(
        folder / "aux.yaml", stage("Tagger", "SalientMaps"), stage("Focused", "SalientMaps"), stage("Focused")
    )


OWN = [small.Tagger, small.Focused, small.SalientMaps]


def test_labels_and_maps_are_made_again_from_the_original_files(tagged, tmp_path):
    run = train(three_stages(tmp_path), tagged, tmp_path / "run", method=OWN, device="cpu")
    first, second = (Manifest.load(run / f"stage{n}" / "labels" / "manifest.json") for n in (0, 1))
    given = Manifest.load(tagged)
    for case in given.training:
        name = case.name
        saliency = voxels(given.resolve(case.maps["saliency"]))
        for manifest, labels in ((first, run / "stage0"), (second, run / "stage1")):
            (again,) = [each for each in manifest.training if each.name == name]
            assert is_pseudo(again)
            assert manifest.label(again).parent == (labels / "labels" / "pseudo").absolute()
            assert manifest.resolve(again.maps["saliency"]) == given.resolve(case.maps["saliency"])
            assert np.array_equal(voxels(manifest.resolve(again.maps["focus"])), saliency)
            classes = voxels(manifest.label(again))
            present = [index for index, there in given.presence(case).items() if there]
            assert set(np.unique(classes[saliency > 0])) == {present[0] if present else 0}
    assert not (run / "stage0" / "labels" / "predictions").exists()


def test_stopped_between_the_passes_maps_are_not_made_again(tagged, tmp_path, monkeypatch):
    predicted = []
    original = MapPredictor.__call__

    def counted(self, images, folder, case):
        predicted.append(Path(images[0]).name)
        return original(self, images, folder, case)

    monkeypatch.setattr(MapPredictor, "__call__", counted)
    task = three_stages(tmp_path)
    whole = train(task, tagged, tmp_path / "whole", method=OWN, device="cpu")
    each = ["case0.nii.gz", "case1.nii.gz", "case2.nii.gz"]
    assert sorted(predicted) == sorted(3 * each), "once for each rule, and for the sheet of the last stage"
    assert [(whole / f"stage{number}" / "maps.png").exists() for number in range(3)] == [False, False, True]
    predicted.clear()

    def stopped(*_):
        raise InterruptedError

    with monkeypatch.context() as broken:
        broken.setattr(PseudoLabeller, "_find_missing", stopped)
        with pytest.raises(InterruptedError):
            train(task, tagged, tmp_path / "broken", method=OWN, device="cpu")
    assert (tmp_path / "broken" / "stage0" / "labels" / "predictions" / "case0" / "maps0.bin").exists()
    again = train(task, tagged, tmp_path / "broken", method=OWN, device="cpu", resume=True)
    assert len(predicted) == 9, "those of the first stage were kept"
    for number in (0, 1):
        for file in (whole / f"stage{number}" / "labels" / "pseudo").glob("*.nii.gz"):
            other = again / f"stage{number}" / "labels" / "pseudo" / file.name
            assert np.array_equal(voxels(file), voxels(other)), file.name
    weights = [torch.load(run / "bundle" / "models" / "model.pt", weights_only=True) for run in (whole, again)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_a_slice_of_maps_by_hand():
    """Of two structures in two slices of one row: relative to the whole image, nothing below zero."""
    first = torch.tensor([[[-1.0, 4.0]], [[2.0, 1.0]]])
    second = torch.tensor([[[0.0, 0.0]], [[5.0, -3.0]]])
    maps = torch.stack([first, second])
    assert map_slice(maps, 3, 0).tolist() == [[[0.0], [0.5]], [[0.0], [1.0]]]
    assert map_slice(maps, 3, 1).tolist() == [[[1.0], [0.25]], [[0.0], [0.0]]]
    assert map_slice(maps, 3, 0, {1: True, 2: False}).tolist() == [[[0.0], [0.5]], [[0.0], [0.0]]]
    with_background = torch.cat([9 + first[None], maps])
    assert map_slice(with_background, 3, 0).tolist() == map_slice(maps, 3, 0).tolist()
    refined = torch.cat([maps, maps, first[None]])  # two structures refined, as they are, and saliency
    assert map_slice(refined, 3, 0).tolist() == map_slice(maps, 3, 0).tolist()
    assert map_slice(maps[:1], 3, 0) is None
    coloured = colour_maps(map_slice(maps, 3, 0), ["red", "blue"])
    assert coloured.shape == (1, 2, 4)
    assert coloured[0, 0, 3] == 0
    assert coloured[0, 1].tolist() == pytest.approx([0, 0, 1, 0.8])


def test_cases_are_chosen_at_equal_distances():
    assert evenly_chosen("abcdefg", 3) == ["a", "d", "g"]
    assert evenly_chosen("ab", 3) == ["a", "b"]
    assert evenly_chosen("", 3) == []


class Doubtful(PseudoLabels):
    """Labels every case at first; then only cases without a tag.

    Args:
        classes: number of classes with background.
    """

    def label(self, case, decided, round_number):
        if round_number > 1 and case.tags:
            return None
        return torch.zeros_like(case.labels[0])


def test_a_case_that_loses_its_pseudo_label_is_what_it_was(tagged, tmp_path):
    from medseg.workflows.train.self_training.labelling.labelled_manifest import write_round_manifest

    manifest = Manifest.load(tagged)
    (bare,) = manifest.unlabeled
    for number in (1, 2):
        cases = cases_to_label(streams_of(manifest), ("unlabeled", "weak", "pseudo"))
        assert len(cases) == 4
        rule = settings.check({"name": "x", "stages": [stage("a", "Doubtful"), stage("b")]}, "x").stages[0].then.rule
        labeller = PseudoLabeller(number, tmp_path / str(number), None, manifest, cases, (), rule)
        (tmp_path / str(number) / "pseudo").mkdir(parents=True)
        for case in cases:
            if number == 1 or case.tags == ():
                labeller.file(case).touch()
        with methods.use_methods(methods.locate_methods(Doubtful)):
            manifest = write_round_manifest(manifest, labeller, tmp_path / f"{number}.json")
        if number == 1:
            assert {name: len(found) for name, found in streams_of(manifest).items()} == {
                "labeled": 4, "weak": 0, "unlabeled": 0, "all": 4
            }  # fmt: skip
    groups = streams_of(manifest)
    assert [case.name for case in groups["labeled"]] == ["case2"]
    assert [case.name for case in groups["weak"]] == ["case0", "case1"]
    assert [(case.name, case.label, is_pseudo(case)) for case in groups["unlabeled"]] == [(bare.name, None, False)]


class NoMaps(small.Tagger):
    """A classifier without maps."""

    maps = Method.maps


class SmallMaps(small.Tagger):
    """Maps that are smaller than the image."""

    def maps(self):
        return torch.nn.AvgPool3d(2)


def test_what_a_rule_cannot_have_is_refused_when_the_run_is_planned(tagged, tmp_path):
    rule = f"{EXAMPLE}:MapsOfTags"

    def refused(error: type, words: str, *stages: dict, data: Path = tagged, method: list) -> None:
        with pytest.raises(error, match=words):
            train(write_task(tmp_path / "x.yaml", *stages), data, tmp_path / "x", method=method, device="cpu")
        assert not list((tmp_path / "x").glob("stage*"))

    words = r"rule MapsOfTags works on maps of the method, and NoMaps has none \(maps\(\)\)"
    stages = stage("NoMaps", "MapsOfTags"), stage("supervised")
    refused(ConfigError, words, *stages, method=[NoMaps, rule])
    words = (
        r"maps\(\) of SmallMaps makes \(1, 1, 8, 8, 8\) of an image \(1, 1, 16, 16, 16\); accepted is \(1, K, 16, 16"
    )
    refused(ConfigError, words, stage("SmallMaps", "MapsOfTags"), stage("supervised"), method=[SmallMaps, rule])
    content = json.loads(tagged.read_text())
    content["training"][1].pop("maps")
    without = tagged.with_name("without.json")
    without.write_text(json.dumps(content))
    words = "rule SalientMaps needs a map called 'saliency' of each case that it labels; 1 have none, among them case1"
    stages = stage("Tagger", "SalientMaps"), stage("Focused")
    refused(ManifestError, words, *stages, data=without, method=OWN)
    words = "Focused needs a map called 'focus' of each labeled case; 3 have none"
    stages = stage("Tagger", "MapsOfTags"), stage("Focused")
    refused(ManifestError, words, *stages, method=[small.Tagger, small.Focused, rule])
    words = r"Tagger makes no segmenter and has no pretrained\(\), which the next stage needs"
    stages = stage("Tagger", "MapsOfTags"), stage("supervised", init="previous")
    refused(ConfigError, words, *stages, method=[small.Tagger, rule])
    words = "no labelled case under 'training', which supervised learns from"
    stages = stage("Tagger"), stage("supervised")
    refused(ManifestError, words, *stages, method=[small.Tagger])


@pytest.mark.parametrize("rule", ["auxsegnet", "group_wsss", "s4l", "tag_maps"])
def test_a_rule_that_looks_at_the_maps_of_one_view_is_refused_for_two(tagged, tmp_path, rule):
    task = write_task(
        tmp_path / "x.yaml", stage("Tagger", rule, views=["axial", "coronal"]), stage("supervised"), patch=[16, 16, 16]
    )
    with pytest.raises(ConfigError, match=f"rule {rule} is for one view, got axial, coronal"):
        train(task, tagged, tmp_path / "x", method=small.Tagger, device="cpu")


def test_a_batch_is_no_larger_than_what_the_rule_labelled(tagged, tmp_path, capsys):
    """Of four cases one has no tags, so that the rule gives it no label; the plan could not know."""
    first = stage("Tagger", then={"rule": {"name": "MapsOfTags"}})
    task = write_task(tmp_path / "few.yaml", first, stage("supervised"))
    run = train(task, tagged, tmp_path / "run", method=[small.Tagger, f"{EXAMPLE}:MapsOfTags"], device="cpu")
    assert "stage 1: 3 cases have a label, so that the batch is 3, not 4" in capsys.readouterr().err
    assert [case.name for case in Manifest.load(run / "stage0" / "labels" / "manifest.json").unlabeled] == ["case3"]
