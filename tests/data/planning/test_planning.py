"""The plan: what it reads off the files, and that it depends on nothing else."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from tiny import write_dataset

from medseg.config.pipeline import DataSpec, NetworkSpec
from medseg.data.preprocess import Job, prepare
from medseg.errors import ConfigError, DataError
from medseg.manifest.manifest import Manifest
from medseg.networks.sizes import fit_size, plan_strides
from medseg.ops.pretext.rotations import choose_rotations
from medseg.planning.fingerprint import Fingerprint, native_spacing
from medseg.planning.plan import (
    GPU_PATCH_VOXELS,
    PATCH_VOXELS,
    choose_view,
    finer_across_slices,
    plan_batch,
    plan_data,
    plan_patch,
)
from medseg.workflows.train import settings
from medseg.workflows.train.budget.choose import relative_cost
from medseg.workflows.train.budget.reductions import (
    REDUCTIONS,
    REDUCTIONS_OF_SLICES,
    Reduction,
    iterations_wanted,
    reduce_plan,
    reductions_for,
)
from medseg.workflows.train.options import budget_seconds
from medseg.workflows.train.plan import write_plan

PLENTY = 1e12
VNET = NetworkSpec(name="vnet")


def planned(path, **given):
    return plan_data(Manifest.load(path), network=VNET, memory_bytes=PLENTY, overrides=given)


def test_spacing_is_the_median_along_ras_axes_whatever_the_storage(tmp_path):
    path = write_dataset(tmp_path, labeled=3, unlabeled=0, validation=0, test=0, spacing=(1.0, 2.0, 3.0))
    image = nib.load(tmp_path / "case1.nii.gz")
    turned = image.as_reoriented(nib.orientations.axcodes2ornt(("S", "P", "R")))
    nib.save(turned, tmp_path / "case1.nii.gz")
    label = nib.load(tmp_path / "case1_label.nii.gz")
    nib.save(label.as_reoriented(nib.orientations.axcodes2ornt(("S", "P", "R"))), tmp_path / "case1_label.nii.gz")
    assert planned(path).spacing_mm == pytest.approx((1.0, 2.0, 3.0))


def test_mr_is_z_scored_and_ct_windowed_to_its_labelled_voxels(tmp_path):
    assert planned(write_dataset(tmp_path / "mr")).intensity.kind == "zscore"
    rule = planned(write_dataset(tmp_path / "ct", modality="CT")).intensity
    values = np.concatenate([
        nib.load(tmp_path / "ct" / f"case{i}.nii.gz").get_fdata()[
            nib.load(tmp_path / "ct" / f"case{i}_label.nii.gz").get_fdata() > 0
        ]
        for i in range(2)
    ])  # fmt: skip
    assert rule.kind == "window"
    assert [rule.low, rule.high] == pytest.approx(np.percentile(values, [0.5, 99.5]), abs=1e-3)


def _two_channels(folder, second, modalities):
    """A data set of two channels in two files, of which the second is given."""
    path = write_dataset(folder, modality="CT", validation=0, test=0, unlabeled=0)
    content = json.loads(path.read_text())
    content["modality"] = dict(enumerate(modalities))
    for number, case in enumerate(content["training"]):
        first = nib.load(folder / case["image"])
        values = second(np.asarray(first.dataobj, dtype=np.float64))
        nib.save(nib.Nifti1Image(values.astype(np.float32), first.affine), folder / f"second{number}.nii.gz")
        case["image"] = [case["image"], f"second{number}.nii.gz"]
    path.write_text(json.dumps(content))
    return path


def _prepared(path, spec):
    manifest = Manifest.load(path)
    case = manifest.training[0]
    return prepare(Job("case", tuple(manifest.images(case)), manifest.label(case), spec)).image


def test_each_ct_channel_has_the_window_of_its_own_labelled_voxels(tmp_path):
    path = _two_channels(tmp_path, lambda values: 600 + values / 2, ("CT", "CT"))
    spec = planned(path)
    first, second = spec.intensities
    assert (second.low, second.high) == pytest.approx((600 + first.low / 2, 600 + first.high / 2), abs=0.1)
    image = _prepared(path, spec)
    assert image[1].std() == pytest.approx(image[0].std(), abs=0.02)  # with the window of the first it was constant
    assert np.abs(image[0].astype(float) - image[1]).max() < 0.02


def test_ct_beside_pet_keeps_its_window(tmp_path):
    path = _two_channels(tmp_path, lambda values: 3 + np.abs(values) / 7, ("CT", "PET"))
    spec = planned(path)
    alone = planned(write_dataset(tmp_path / "ct", modality="CT"))
    assert spec.intensities[0] == alone.intensity
    assert spec.intensities[1].kind == "zscore"
    image = _prepared(path, spec).astype(float)
    assert image[0].max() == pytest.approx(
        (alone.intensity.high - alone.intensity.mean) / alone.intensity.std, abs=0.01
    )
    assert (image[1].mean(), image[1].std()) == pytest.approx((0, 1), abs=0.01)


def test_a_rule_for_each_channel_or_one_for_all(tmp_path):
    with pytest.raises(ConfigError, match="intensity has 2 rules for 1 channels"):
        planned(write_dataset(tmp_path), intensity=[{"kind": "zscore"}, {"kind": "zscore"}])


def test_across_thick_slices_the_spacing_is_that_of_the_thinner_ones():
    spacings = np.array([[0.8, 0.8, 5.0]] * 6 + [[0.8, 0.8, 2.5]] * 4)
    shapes = np.array([[512, 512, 60]] * 10)
    fingerprint = Fingerprint(spacings, shapes, ())
    median = np.median(spacings, axis=0)
    assert finer_across_slices(fingerprint, median).tolist() == [0.8, 0.8, 2.5]
    even = Fingerprint(spacings * [1, 1, 0.3], shapes, ())
    median = np.median(even.spacing_mm, axis=0)  # 0.8, 0.8, 1.5
    assert finer_across_slices(even, median).tolist() == median.tolist()
    many = Fingerprint(spacings, np.array([[100, 100, 60]] * 10), ())
    assert finer_across_slices(many, np.array([0.8, 0.8, 5.0])).tolist() == [0.8, 0.8, 5.0]


@pytest.mark.parametrize(
    ("files", "rotations", "exchanged"),
    [
        ({(1, 1, 1): 20}, "axis10", (0, 1, 2)),
        ({(1, 1, 1): 19, (1, 1, 5): 1}, "axis10", (0, 1, 2)),  # one of 20 may be otherwise
        ({(1, 1, 1): 12, (1, 1, 5): 8}, "axial4", (0, 1)),  # the median is even, and 8 are blurred across
        ({(1, 1, 1): 12, (5, 1, 1): 8}, "axial4", (1, 2)),
        ({(1, 1, 1): 10, (5, 1, 1): 5, (1, 1, 5): 5}, "half4", ()),
        ({(5, 1, 1): 14, (1, 1, 5): 6}, "half4", ()),
        ({(0.5, 0.5, 2): 10, (0.8, 0.8, 4): 10}, "axial4", (0, 1)),
    ],
)
def test_files_of_mixed_spacing_do_not_give_a_rotation_away(files, rotations, exchanged):
    spacings = np.repeat(np.array(list(files), float), list(files.values()), axis=0)
    native = native_spacing(Fingerprint(spacings, np.full_like(spacings, 64), ()), np.ones(3))
    found = choose_rotations("auto", (1.0, 1.0, 1.0), native)
    assert (found.name, found.exchanged) == (rotations, exchanged)


def test_overrides_win(tmp_path):
    spec = planned(write_dataset(tmp_path), spacing_mm=[2, 2, 2], patch=[8, 8, 8], foreground=0.25)
    assert spec.spacing_mm == (2, 2, 2)
    assert spec.patch == (8, 8, 8)
    assert spec.foreground == 0.25


def test_a_wrong_override_is_named_with_its_path(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.overlap: .*less than 1, got 3"):
        planned(write_dataset(tmp_path), overlap=3)
    with pytest.raises(ConfigError, match=r"data\.overlap: .*one number, or three, .*, got \[0\.5, 0\.25\]"):
        planned(write_dataset(tmp_path), overlap=[0.5, 0.25])


def test_an_unreadable_image_is_named(tmp_path):
    path = write_dataset(tmp_path)
    (tmp_path / "case0.nii.gz").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"case0\.nii\.gz"):
        planned(path)


@pytest.mark.parametrize(
    ("spacing", "shape", "view"),
    [
        ((1, 1, 1), (128, 128, 100), "volume"),
        ((0.8, 0.8, 3), (512, 512, 120), "volume"),  # thick, but many
        ((1.5, 1.5, 10), (220, 220, 10), "axial"),  # cine MR of the heart
        ((8, 1, 1), (12, 256, 256), "sagittal"),
        ((1, 1, 1), (565, 584, 1), "axial"),  # a picture
        ((1, 6, 1), (200, 5, 200), "coronal"),
    ],
)
def test_view(spacing, shape, view):
    assert choose_view(np.array(spacing, float), np.array(shape, float)) == view


def test_patch_is_a_cube_in_mm_within_image_and_bounds():
    spacing = np.array([1.0, 1.0, 2.5])
    patch = plan_patch((300, 300, 120), spacing, "volume", most=PATCH_VOXELS[3])
    sides = np.array(patch) * spacing
    assert sides.max() / sides.min() < 1.4
    assert 0.7e6 < np.prod(patch) < 1.4e6
    tight = plan_patch((300, 300, 120), spacing, "volume", most=2e5)
    assert np.prod(tight) < 0.4 * np.prod(patch)
    assert plan_patch((200, 140, 88), np.ones(3) * 0.625, "volume", most=PATCH_VOXELS[3]) == (112, 112, 80)
    assert plan_patch((220, 200, 10), np.array([1.5, 1.5, 10]), "axial", most=PATCH_VOXELS[2])[2] == 1


def test_a_gpu_has_patches_as_large_as_those_of_nnunet():
    large = plan_patch((200, 140, 88), np.ones(3) * 0.625, "volume", most=GPU_PATCH_VOXELS[3])
    assert np.prod(large) > 1.5 * 112 * 112 * 80
    assert large == (192, 128, 80)


def test_patches_shrink_with_the_memory(tmp_path):
    path = write_dataset(tmp_path, shape=(96, 96, 96), spacing=(1, 1, 1), validation=0, test=0)
    patches = []
    for memory in (PLENTY, 4e9, 1e9):
        patches.append(np.prod(plan_data(Manifest.load(path), network=VNET, memory_bytes=memory).patch))
    assert patches == sorted(patches, reverse=True)
    assert patches[2] <= 1.2 * 1e9 / (90 * 16 * 4)


@pytest.mark.parametrize("size", [*range(8, 200, 7), 88, 140.5])
def test_fitted_sizes_can_be_halved_and_fit(size):
    fitted = fit_size(size, largest=size)
    assert 0.5 * size <= fitted <= max(size, 8)
    strides = plan_strides([fitted])
    assert fitted % np.prod([step[0] for step in strides]) == 0


def test_batch_is_shared_by_the_streams_that_have_cases():
    both = {"labeled": 1, "unlabeled": 1}
    assert plan_batch(both, {"labeled": 16, "unlabeled": 12}, 3) == {"labeled": 2, "unlabeled": 2}
    assert plan_batch(both, {"labeled": 16, "unlabeled": 0}, 3) == {"labeled": 4}
    assert plan_batch(both, {"labeled": 1, "unlabeled": 9}, 3) == {"labeled": 1, "unlabeled": 2}
    assert plan_batch({"labeled": 1}, {"labeled": 1}, 2) == {"labeled": 16}


def test_weak_streams_have_the_larger_part_of_a_batch_and_whole_groups():
    many = {"labeled": 30, "unlabeled": 30, "weak": 30}
    two, three = {"labeled": 1, "weak": 1}, {"labeled": 1, "unlabeled": 1, "weak": 1}
    assert plan_batch(two, many, 2) == {"labeled": 5, "weak": 10}
    assert plan_batch(three, many, 2) == {"labeled": 4, "unlabeled": 4, "weak": 8}
    assert plan_batch(three, many, 3) == {"labeled": 1, "unlabeled": 1, "weak": 2}
    assert plan_batch({"weak": 1}, {"weak": 3}, 3) == {"weak": 3}
    assert plan_batch({"weak": 3}, many, 2) == {"weak": 15}
    assert plan_batch({"weak": 3}, many, 3) == {"weak": 3}
    assert plan_batch({"weak": 2}, {"weak": 3}, 3) == {"weak": 2}
    assert plan_batch({"labeled": 1, "weak": 3}, many, 3) == {"labeled": 1, "weak": 3}


def test_reduced_plans_keep_the_field_of_view():
    spec = DataSpec(labels={0: "b", 1: "c"}, modality=("MR",), spacing_mm=(0.6, 0.6, 2.4), patch=(128, 128, 48))
    costs = []
    for reduction in REDUCTIONS:
        reduced = reduce_plan(spec, VNET, reduction, set())
        assert reduced.network.width == 16 // reduction.narrower
        view = np.array(reduced.data.patch) * reduced.data.spacing_mm
        assert view == pytest.approx(np.array(spec.patch) * spec.spacing_mm / reduction.smaller, rel=0.35)
        assert reduced.data.spacing_mm[2] == 2.4
        costs.append(relative_cost(reduced))
    assert costs == sorted(costs, reverse=True)
    kept = reduce_plan(spec, VNET, Reduction(2.0, 1, 1.0), {"patch", "spacing_mm"})
    assert kept.data == spec


def test_slices_want_more_iterations_before_a_plan_is_made_cheaper():
    volume = DataSpec(labels={0: "b", 1: "c"}, modality=("MR",), spacing_mm=(1, 1, 1), patch=(64, 64, 32))
    plane = volume.model_copy(update={"view": "axial", "patch": (64, 64, 1)})
    assert (iterations_wanted(volume), iterations_wanted(plane)) == (1000, 1500)


def test_slices_become_parts_before_they_become_coarser():
    """256 x 224 pixels of 1.5 mm: parts of 192 x 168, then 144 x 128, then fewer channels, then coarser."""
    plane = DataSpec(
        labels={0: "b", 1: "c"}, modality=("MR",), spacing_mm=(1.5, 1.5, 10), patch=(256, 224, 1), view="axial"
    )
    reduced = [reduce_plan(plane, VNET, reduction, set()) for reduction in REDUCTIONS_OF_SLICES]
    costs = [relative_cost(each) for each in reduced]
    assert costs == sorted(costs, reverse=True)
    assert [each.data.spacing_mm[0] for each in reduced] == [1.5, 1.5, 1.5, 1.5, 1.875, 2.25, 3.0]
    assert [each.network.width for each in reduced] == [16, 16, 16, 8, 8, 8, 8]
    assert reduced[2].data.patch[2] == 1
    assert all(120 <= side <= 152 for side in reduced[2].data.patch[:2])
    assert relative_cost(reduced[-1]) <= relative_cost(reduce_plan(plane, VNET, REDUCTIONS[-1], set()))


@pytest.mark.parametrize(
    ("task", "changes", "expected"),
    [
        ("supervised", {"view": "axial", "patch": (64, 64, 1)}, REDUCTIONS_OF_SLICES),
        ("supervised", {}, REDUCTIONS),
        ("classify", {"view": "axial", "patch": (64, 64, 1), "target": "images"}, REDUCTIONS),
        ("auxsegnet", {"view": "axial", "patch": (64, 64, 1)}, REDUCTIONS),  # a part may lack what the tags name
        ("s4l", {"view": "axial", "patch": (64, 64, 1)}, REDUCTIONS_OF_SLICES),
    ],
)
def test_parts_of_slices_are_for_tasks_without_tags(task, changes, expected):
    volume = DataSpec(labels={0: "b", 1: "c"}, modality=("MR",), spacing_mm=(1, 1, 1), patch=(64, 64, 32))
    stages = settings.load(task).stages
    assert reductions_for(stages, volume.model_copy(update=changes)) is expected


def test_budget_words():
    assert [budget_seconds(text) for text in ("90s", "25m", "1.5h", "0.5 m")] == [90, 1500, 5400, 30]
    for text in ("soon", "-5m", "3s", "", "25d", "1e9"):
        with pytest.raises(ConfigError, match="such as 90s, 25m or"):
            budget_seconds(text)


@pytest.mark.parametrize("bare", ["25", "1500", "2.5", 25, 1500.0])
def test_a_budget_without_a_unit_could_be_minutes_or_seconds(bare):
    words = rf"--budget {bare}: a unit is missing; {bare}m is minutes, {bare}s seconds, {bare}h hours"
    with pytest.raises(ConfigError, match=words):
        budget_seconds(bare)


def test_a_plan_is_a_pipeline_that_repeats_it(tmp_path):
    path = write_dataset(tmp_path / "data")
    resolved = write_plan("dtc", path, tmp_path / "plan.yaml")
    assert settings.load(str(tmp_path / "plan.yaml")) == resolved
    assert json.loads(json.dumps(dict(resolved.data)))["patch"]


def test_thick_slices_are_joined_last():
    # 1.5 x 1.5 x 10 mm: in the plane to 3, to 6 mm, then also across, 12 x 12 x 20; nnU-Net's rule
    assert plan_strides((208, 256, 10), spacing_mm=(1.5, 1.5, 10)) == [[2, 2, 1], [2, 2, 1], [2, 2, 2], [2, 2, 1]]
    assert plan_strides((208, 256, 10)) == [[2, 2, 2], [2, 2, 1], [2, 2, 1], [2, 2, 1]]
    for patch in ((112, 112, 80), (64, 48, 20), (96, 16)):
        assert plan_strides(patch, spacing_mm=[1.3] * len(patch)) == plan_strides(patch)


def test_a_volume_of_thick_slices_is_planned_with_its_strides(tmp_path):
    path = write_dataset(tmp_path / "data", shape=(64, 64, 10), spacing=(1.5, 1.5, 10))
    plan = write_plan("supervised", path, tmp_path / "axial.yaml")
    assert plan.data["view"] == "axial"
    assert "strides" not in plan.stages[0].network.options
    plan = write_plan("supervised", path, tmp_path / "volume.yaml", overrides=["data.view=volume"])
    assert plan.data["patch"] == [64, 64, 10]
    assert plan.stages[0].network.options["strides"][0] == [2, 2, 1]
    even = write_dataset(tmp_path / "even", shape=(64, 64, 40), spacing=(1.5, 1.5, 2))
    assert "strides" not in write_plan("supervised", even, tmp_path / "even.yaml").stages[0].network.options
