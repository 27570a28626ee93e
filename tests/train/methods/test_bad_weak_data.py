"""Data that few-label and tag methods cannot do much with: each line of their papers' tables of bad input."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from given_networks import factory
from tagged import write_tagged
from tiny import write_dataset

from medseg import methods
from medseg.config.pipeline import DataSpec, NetworkSpec, Pipeline
from medseg.data.cache import VolumeCache
from medseg.errors import ConfigError, DataError, ManifestError
from medseg.manifest.manifest import Manifest
from medseg.method import Clock, Predictions
from medseg.networks.factory import NetworkFactory
from medseg.ops.losses.locally_adaptive import LocallyAdaptiveLoss
from medseg.ops.semi_supervised.alignment import alignment_target, describe_unlike
from medseg.ops.tags.saliency import fuse_with_saliency
from medseg.planning.plan import plan_data
from medseg.progress import forget_told
from medseg.workflows.train import settings
from medseg.workflows.train.checks import stages as checks
from medseg.workflows.train.checks.files import find_warnings
from medseg.workflows.train.checks.streams import check_all_streams
from medseg.workflows.train.plan import write_plan
from medseg.workflows.train.self_training.labelling.dead_maps import dead_map_warnings, says_something
from medseg.workflows.train.self_training.labelling.outcome import notes_of
from medseg.workflows.train.self_training.labelling.predict_maps import read_inputs
from medseg.workflows.train.self_training.validation_scores import count_labelled_voxels
from medseg.workflows.train.stages import prepare_cases

SINGLE = "there is a single unlabelled case, and no other one to mix it with"


def edited(path, change) -> Manifest:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return Manifest.load(path)


def stage_of(name: str, **options):
    return Pipeline(name="one", stages=({"method": {"name": name, "options": options}},)).stages[0]


# AEL and mean teacher.


@pytest.mark.parametrize(
    ("name", "options", "count", "said"),
    [
        ("ael", {}, 1, [SINGLE]),
        ("ael", {}, 2, []),
        ("mean_teacher", {"mix": "cutmix"}, 1, [SINGLE]),
        ("mean_teacher", {}, 1, []),
    ],
)
def test_a_single_unlabelled_case_is_told_where_images_are_mixed(name, options, count, said):
    method = methods.build(name, factory(2, 3), **options)
    assert list(method.cautions({"labeled": 4, "unlabeled": count})) == said


def test_what_a_method_warns_of_is_said_once(capsys):
    method, stage = methods.build("ael", factory(2, 3)), stage_of("ael")
    forget_told()
    for _ in range(2):
        checks._tell_cautions(method, stage, [{"unlabeled": 1}])
    assert capsys.readouterr().err.count(f"warning: ael: {SINGLE}") == 1


@pytest.mark.parametrize(("batch", "told"), [(["labeled=2"], 1), (["labeled=2", "unlabeled=1"], 0), ([], 0)])
def test_cases_that_a_given_batch_leaves_out_are_told(batch, told, tmp_path, capsys):
    overrides = ["data.patch=[16,16,16]", *(f"stages.0.schedule.batch.{each}" for each in batch)]
    forget_told()
    write_plan("dtc", write_dataset(tmp_path), tmp_path / "plan.yaml", overrides=overrides)
    line = "warning: dtc: schedule.batch is {labeled: 2}, so that nothing is learnt from the 2 unlabeled cases"
    assert capsys.readouterr().err.count(line) == told


def test_a_second_command_says_its_own_lines_again(tmp_path, capsys):
    data = write_dataset(tmp_path)
    overrides = ["data.patch=[16,16,16]", "stages.0.schedule.batch.labeled=2"]
    for name in ("first.yaml", "second.yaml"):
        write_plan("dtc", data, tmp_path / name, overrides=overrides)
        assert capsys.readouterr().err.count("so that nothing is learnt from the 2 unlabeled cases") == 1


def prepare_twice(manifest: Manifest, folder, name: str) -> None:
    """Preprocess the labelled cases of a stage of a method."""
    data = plan_data(manifest, network=NetworkSpec(name="unet"), memory_bytes=1e9, overrides={"patch": [16, 16, 16]})
    forget_told()
    cases = list(manifest.training)
    for _ in range(2):
        prepare_cases.prepare_cases(
            VolumeCache(folder / "cache"), manifest, cases, data, (stage_of(name), "labeled"), shown=True
        )


@pytest.mark.parametrize(("name", "times"), [("ael", 1), ("wilson", 0)])
def test_a_class_without_a_labelled_voxel_is_told_once_but_where_the_network_before_knows_it(
    tmp_path, capsys, name, times
):
    path = write_dataset(tmp_path / "data", labeled=2, unlabeled=1, validation=0)
    manifest = edited(path, lambda content: content["labels"].update({"3": "spleen"}))
    prepare_twice(manifest, tmp_path, name)
    assert capsys.readouterr().err.count("no training label has spleen: it cannot be learnt") == times


# CReST.


def test_tags_that_a_label_contradicts_are_told_once(tmp_path, capsys):
    """Both labels have a ball and a box: the first case's tags deny the box, the second's tell of nothing else."""

    def tag(content):
        content["training"][0]["tags"] = ["ball"]
        content["training"][1]["tags"] = {"ball": True}

    manifest = edited(write_dataset(tmp_path / "data", validation=0), tag)
    prepare_twice(manifest, tmp_path, "supervised")
    told = [line for line in capsys.readouterr().err.splitlines() if "tagged" in line]
    said = "box in the label and not tagged"
    assert told == [f"warning: {manifest.images(manifest.training[0])[0].name}: {said}"]


def test_voxels_of_255_are_in_no_class_size_and_volumes_are_in_mm3_by_hand(tmp_path):
    """Two cases of 2 x 2 x 2 voxels: of 1 mm^3 with three of class 1 and one ignored, of 2 mm^3 with one of class 1."""
    cases = []
    for name, values, spacing in (("a", [1, 1, 1, 255, 0, 0, 0, 0], 1.0), ("b", [1, 0, 0, 0, 0, 0, 0, 0], 2.0)):
        affine = np.diag([1.0, 1.0, spacing, 1.0])
        nib.save(nib.Nifti1Image(np.array(values, np.uint8).reshape(2, 2, 2), affine), tmp_path / f"{name}_l.nii.gz")
        nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.float32), affine), tmp_path / f"{name}.nii.gz")
        cases.append({"image": f"{name}.nii.gz", "label": f"{name}_l.nii.gz"})
    content = {"labels": {"0": "background", "1": "ball"}, "modality": {"0": "MR"}, "training": cases}
    (tmp_path / "m.json").write_text(json.dumps(content))
    manifest = Manifest.load(tmp_path / "m.json")
    assert count_labelled_voxels(manifest) == [11, 4]
    assert count_labelled_voxels(manifest, in_mm3=True) == pytest.approx([4 + 2 * 7, 3 + 2 * 1])


def test_sizes_in_mm3_are_asked_for_and_refused_for_whole_images():
    rule = methods.build_rule("crest", 2, sizes="mm3")
    assert rule.counts_mm3
    assert not methods.build_rule("crest", 2).counts_mm3
    with pytest.raises(ConfigError, match="sizes mm3 is of voxels and regions, and unit is image: accepted is voxels"):
        methods.build_rule("crest", 2, sizes="mm3", unit="image")
    with pytest.raises(ConfigError, match="sizes of rule crest is 'ml'"):
        methods.build_rule("crest", 2, sizes="ml")


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_classes_of_one_size_have_an_even_target(exponent):
    assert alignment_target(torch.tensor([0.25] * 4), exponent).tolist() == pytest.approx([0.25] * 4)


def test_shares_that_differ_by_more_than_three_are_named_by_hand():
    labelled, predicted = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.35, 0.61, 0.04])
    told = describe_unlike(("background", "a", "b"), labelled, predicted)
    assert told is not None
    assert "predicted is a 0.61 instead of 0.2:" in told


def test_a_class_without_labels_is_not_compared_and_one_that_is_not_predicted_is():
    names, predicted = ("background", "a", "b"), torch.tensor([0.6999, 0.3, 0.0001])
    assert describe_unlike(names, torch.tensor([0.7, 0.3, 0.0]), predicted) is None
    told = describe_unlike(names, torch.tensor([0.6, 0.3, 0.1]), predicted)
    assert told is not None
    assert "predicted is b 0.0001 instead of 0.1:" in told


# The locally adaptive loss.


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (torch.rand(1, 1, 4, 4), "labels are torch.float32 of 1 channels; accepted are class indices of one channel"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "labels are torch.uint8 of 3 channels; accepted are class"),
    ],
)
def test_labels_of_shares_of_classes_are_refused(label, words):
    with pytest.raises(ValueError, match=words):
        LocallyAdaptiveLoss(2)(torch.randn(1, 3, 4, 4), label)


# CReST.


def test_generations_without_an_unlabelled_case_are_refused_and_one_alone_is_trained(tmp_path):
    manifest = Manifest.load(write_dataset(tmp_path, labeled=2, unlabeled=0, shape=(12, 10, 8)))
    with pytest.raises(ManifestError, match="no unlabelled case, of which rule crest makes labels") as caught:
        check_all_streams(settings.load("crest"), manifest)
    assert "\n" not in str(caught.value)
    check_all_streams(settings.load("crest", ["stages.0.rounds=null"]), manifest)
    check_all_streams(settings.load("dmpct"), manifest)  # of which the teachers are a result


# S4L.


def test_labels_of_unlabelled_cases_are_counted_and_not_opened(tmp_path):
    path = write_dataset(tmp_path / "data", labeled=2, unlabeled=2)

    def give_labels(content):
        for case in content["unlabeled"]:
            case["label"] = "there_is_no_such_file.nii.gz"

    manifest = edited(path, give_labels)
    assert "2 cases under 'unlabeled' have a label, which training does not open" in find_warnings(
        settings.load("s4l"), manifest
    )
    hidden = [line for line in find_warnings(settings.load("s4l"), Manifest.load(path)) if "does not open" in line]
    assert len(hidden) == 1


# Mix-and-Match.


@pytest.mark.parametrize(
    ("size_mm", "said"),
    [
        ((4.0, 8.0), []),
        ((20.0, 60.0), ["patches of 20 to 60 mm (size_mm) end where a training patch of 32 x 24 mm does"]),
        (None, []),
    ],
)
def test_patches_larger_than_the_training_patch_are_told(size_mm, said):
    method = methods.build("mix_and_match", factory(2, 3), size_mm=size_mm)
    assert method.cautions({}) == said


def test_an_image_without_foreground_gives_its_background_and_is_counted():
    method = methods.build("mix_and_match", factory(2, 3), pool=8)
    label = torch.zeros(2, 1, 32, 24, dtype=torch.uint8)
    label[0, :, 4:20, 4:20] = 1
    torch.manual_seed(0)
    method({"labeled": {"image": torch.randn(2, 2, 32, 24), "label": label}}, Clock(0, 10))
    watched = method.watched()
    assert float(watched["without_foreground"]) == 1
    assert watched["patches"].tolist()[0] >= 4


def test_a_class_of_one_patch_is_allowed_and_counted():
    method = methods.build("mix_and_match", factory(2, 3), pool=4)
    vectors = torch.nn.functional.normalize(torch.randn(4, 5), dim=1)
    assert bool(torch.isfinite(method.compare(vectors, torch.tensor([0, 1, 1, 2]))))
    method._add_counts(torch.tensor([0, 1, 1, 2]))
    assert float(method.watched()["singletons"]) == 2


# Tags, saliency and maps.


def networks_of_patch(patch: tuple[int, int]) -> NetworkFactory:
    data = DataSpec(
        labels={0: "background", 1: "a", 2: "b"}, modality=("MR",), spacing_mm=(1.0, 1.0, 1.0), patch=(*patch, 1),
        view="axial",
    )  # fmt: skip
    return NetworkFactory(NetworkSpec(name="unet", width=4), data)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"stride": 4, "dilations": [1, 2, 4]}, []),
        (
            {"stride": 4, "dilations": [1, 2, 8]},
            ["a dilation of 8 reaches over the whole feature map of 16 x 8 positions"],
        ),
        (
            {"stride": 4, "dilations": [1, 1, 1], "most_positions": 64},
            ["feature maps of 16 x 8 positions are looked at on a grid of 8 x 8 (most_positions)"],
        ),
    ],
)  # fmt: skip
def test_feature_maps_that_are_too_large_or_too_small_are_told(options, said):
    assert methods.build("auxsegnet", networks_of_patch((64, 32)), **options).cautions({}) == said


@pytest.mark.parametrize(("saliency", "values"), [(0.0, {0, 255}), (1.0, {1, 255})])
def test_saliency_of_zeros_or_ones_is_legal(saliency, values):
    maps = torch.tensor([[0.1, 0.9]])
    there = torch.tensor([True])
    label = fuse_with_saliency(maps, torch.full((2,), saliency), there, there)
    assert set(label.tolist()) == values


def test_saliency_on_another_grid_is_refused_by_its_file(tmp_path):
    manifest = Manifest.load(write_tagged(tmp_path / "data"))
    case = manifest.training[0]
    path = manifest.resolve(case.maps["saliency"])
    nib.save(nib.Nifti1Image(np.zeros((5, 5, 5), np.float32), nib.load(path).affine), path)
    with pytest.raises(DataError) as caught:
        read_inputs(manifest, case, ["saliency"])
    assert path.name in str(caught.value)


LIVE, FLAT, NOTHING = [0.5, 1.0], [0.7, 0.7], [-1.0, 0.0]


@pytest.mark.parametrize(
    ("of_cases", "said"),
    [
        ([LIVE + LIVE, LIVE + FLAT], []),
        ([LIVE + NOTHING, LIVE + LIVE], ["the map of box is nowhere positive, or flat, in 1 of 1 images"]),
        ([FLAT + LIVE, LIVE + LIVE], ["the map of ball is nowhere positive, or flat, in 1 of 2 images"]),
        (
            [FLAT + NOTHING, NOTHING + LIVE],
            [
                "the map of ball is nowhere positive, or flat, in 2 of 2 images",
                "the map of box is nowhere positive, or flat, in 1 of 1 images",
            ],
        ),
    ],
)
def test_maps_that_say_nothing_are_counted_for_each_class(tmp_path, of_cases, said):
    """Case 0 has both structures, case 1 the ball alone, case 2 none."""
    manifest = Manifest.load(write_tagged(tmp_path / "data"))
    rule = methods.build_rule("tag_maps", 3)
    notes = []
    for case, values in zip(manifest.training, [*of_cases, NOTHING + NOTHING], strict=True):
        maps = [torch.tensor(values).view(-1, 2, 1, 1)]
        notes.append(notes_of(rule, Predictions((), (), tags=manifest.presence(case), maps=maps), None))
    lines = dead_map_warnings(manifest, notes)
    assert [line.split(" tagged with it: ")[0] for line in lines] == said


def test_maps_of_all_classes_have_the_background_first_and_too_few_are_none_of_structures():
    maps = torch.tensor([FLAT, LIVE, NOTHING]).view(3, 2, 1, 1)
    assert [says_something(maps, index, 3) for index in (1, 2)] == [True, False]
    assert [says_something(maps[:2], index, 3) for index in (1, 2)] == [False, True]
    assert says_something(maps[:1], 2, 3)


# WILSON.


def test_masks_in_a_step_of_tags_are_counted(tmp_path):
    path = write_dataset(tmp_path / "data", labeled=3, unlabeled=0)
    said = "3 cases have labels, from which wilson does not learn"
    assert said in find_warnings(settings.load("wilson"), Manifest.load(path))
    tagged = edited(path, lambda content: content["training"][0].update({"tags": ["ball"]}))
    said += ", nor from the tags that 1 of them have beside"
    assert said in find_warnings(settings.load("wilson"), tagged)
