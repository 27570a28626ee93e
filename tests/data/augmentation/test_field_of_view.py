"""Scans that show less than those of training: patches, plans, bundles and what is said at prediction."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
import torch
import yaml
from models import data_spec, make_bundle, make_image
from tiny import FAST, write_dataset

from medseg.bundle.bundle import open_bundle
from medseg.bundle.configs import inferer_config, train_config
from medseg.config.instantiate import make
from medseg.config.pipeline import Augment, DataSpec
from medseg.data.affine_sampling import box
from medseg.data.augment import Draw, Source, apply, apply_to_maps, draw, repeated_axes
from medseg.ops.augmentation.field_of_view import Crop, FieldOfView
from medseg.portable.inference.windows import overlaps_of, window_starts
from medseg.workflows.predict.run import predict
from medseg.workflows.train.plan import write_plan
from medseg.workflows.train.run import train

CUT = FieldOfView(cuts=((0, 1, 3), (2, 0, 1)), shift=1.0)
"""Of a patch of 5 x 1 x 3: voxels 1 and 2 along x, the first along z."""


def cut(source: Source, drawn: FieldOfView = CUT) -> tuple[np.ndarray, np.ndarray]:
    image, label = torch.empty(1, 5, 1, 3), torch.empty(1, 5, 1, 3, dtype=torch.uint8)
    apply(Draw(Augment().transforms, {"crop": drawn}), source, (0, 0, 0), image, label)
    return image.numpy(), label.numpy()


def ramp() -> Source:
    """Intensity and label are ten times x and z."""
    values = 10 * torch.arange(5).view(5, 1, 1) + torch.arange(3)
    return Source(values[None].half(), values[None].byte(), torch.zeros(1), maps=values[None].half())


def test_a_cropped_patch_repeats_its_box_in_image_label_and_maps():
    image, label = cut(ramp())
    expected = np.array([10, 10, 20, 20, 20])[:, None].repeat(3, 1)
    np.testing.assert_array_equal(image[0, :, 0], expected)
    np.testing.assert_array_equal(label[0, :, 0], expected)
    maps = torch.empty(1, 5, 1, 3)
    apply_to_maps(Draw(Augment().transforms, {"crop": CUT}), ramp(), (0, 0, 0), maps)
    np.testing.assert_array_equal(maps[0, :, 0].numpy(), expected)


def test_a_z_scored_patch_gets_the_z_score_of_its_box():
    source = ramp()
    zscored = Source(source.image, source.label, source.background, zscored=(True,))
    image, label = cut(zscored)
    np.testing.assert_allclose(image[0, :, 0, 0], [-1, -1, 1, 1, 1], atol=1e-6)  # of 10 and 20
    np.testing.assert_array_equal(label, cut(source)[1])
    halfway, _ = cut(zscored, FieldOfView(CUT.cuts, 0.5))
    np.testing.assert_allclose(halfway[0, :, 0, 0], (np.array([10, 10, 20, 20, 20]) - 7.5) / 5**0.5, atol=1e-5)


def test_a_patch_that_keeps_its_surroundings_gets_the_intensities_of_its_box_alone():
    source = ramp()
    zscored = Source(source.image, source.label, source.background, zscored=(True,))
    image, label = cut(zscored, FieldOfView(CUT.cuts, 1.0, repeated=False))
    np.testing.assert_allclose(image[0, :, 0, 0], [-3, -1, 1, 3, 5], atol=1e-6)  # the box has 10 and 20
    np.testing.assert_array_equal(label[0, :, 0], source.label[0, :, 0])
    crop = Crop(probability=1.0, repeated=0.25)
    drawn = [crop.draw(np.random.default_rng(seed), (16, 16, 12), (1, 1, 1)) for seed in range(1000)]
    kept = [each.repeated for each in drawn if each is not None]
    assert sum(kept) / len(kept) == pytest.approx(0.25, abs=0.05)


def test_what_is_drawn_is_a_box_of_the_patch_as_often_as_asked():
    crop, patch = Crop(probability=0.5, share=(0.25, 0.75)), (16, 1, 12)
    drawn = [crop.draw(np.random.default_rng(seed), patch, (1, 1, 1)) for seed in range(2000)]
    boxes = [each for each in drawn if each is not None]
    assert len(boxes) / 2000 == pytest.approx(0.5 * (1 - 1 / 9), abs=0.04)  # neither of two axes is cut in a ninth
    for each in boxes:
        assert each.shift == len(each.cuts) / 2
        for axis, low, high in each.cuts:
            assert axis != 1
            assert 0 <= low < high <= patch[axis]
            assert 0.2 < (high - low) / patch[axis] < 0.8
    assert not any(Crop().draw(np.random.default_rng(seed), patch, (1, 1, 1)) for seed in range(50))


@pytest.mark.parametrize("start", [(-3, -2, 1), (4, 5, -6), (2, 9, 9)])
def test_a_box_repeats_the_edges_along_every_axis(start):
    volume = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 7, 6, 5)).astype(np.float16))
    found = box(volume, start, (8, 7, 9), torch.zeros(2), (0, 1, 2))
    padded = np.pad(volume.numpy(), [(0, 0), *[(20, 20)] * 3], mode="edge")
    x, y, z = (slice(20 + first, 20 + first + size) for first, size in zip(start, (8, 7, 9), strict=True))
    np.testing.assert_array_equal(found.numpy(), padded[:, x, y, z])


def test_patches_are_padded_as_windows_are():
    assert repeated_axes(data_spec(padding="edge")) == (0, 1, 2)
    assert repeated_axes(data_spec()) == ()
    planar = data_spec(patch=(16, 16, 1), view="axial", slices=3)
    assert repeated_axes(planar) == (2,)


def test_a_new_plan_has_them_and_a_pipeline_can_say_otherwise(tmp_path):
    manifest = write_dataset(tmp_path, shape=(24, 20, 18), spacing=(1.0, 1.0, 1.5))
    plain = write_plan("supervised", manifest, tmp_path / "plain.yaml", overrides=FAST)
    assert plain.data["padding"] == "edge"
    assert plain.data["augment"]["crop"]["probability"] == 0.2
    assert plain.data["smallest_mm"] == [24, 20, 27]
    changes = [*FAST, "data.padding=minimum", "data.augment.crop.probability=0"]
    former = write_plan("supervised", manifest, tmp_path / "former.yaml", overrides=changes)
    assert former.data["padding"] == "minimum"
    assert former.data["augment"]["crop"]["probability"] == 0
    assert write_plan("dtc_la", manifest, tmp_path / "la.yaml").data["augment"]["crop"]["probability"] == 0


def test_dtc_la_has_the_patches_and_the_test_windows_of_its_authors(tmp_path):
    manifest = write_dataset(tmp_path, shape=(24, 20, 18), spacing=(1.0, 1.0, 1.5))
    data = DataSpec(**write_plan("dtc_la", manifest, tmp_path / "la.yaml").data)
    along_axes = zip((200, 166, 88), data.patch, overlaps_of(data.overlap), strict=True)
    starts = [window_starts(*of_axis) for of_axis in along_axes]
    assert starts == [[0, 18, 36, 54, 72, 88], [0, 18, 36, 54], [0, 4, 8]]
    assert (data.patch, data.padding, data.blend) == ((112, 112, 80), "zero", "uniform")
    changes = [draw(data.augment, [seed], data.patch, data.spacing_mm).values for seed in range(200)]
    assert {change["flip"] for change in changes} == {(0,), (1,)}
    assert {change.get("rot90", 0) for change in changes} == {0, 1, 2, 3}
    assert {*chain.from_iterable(changes)} == {"flip", "rot90"}


def test_bundles_carry_the_padding_and_those_from_before_keep_theirs(tmp_path):
    assert "padding" not in inferer_config(data_spec())
    assert open_bundle(make_bundle(tmp_path / "former")).inferer.padding == "minimum"
    new = make_bundle(tmp_path / "new", data_spec(padding="edge"))
    assert open_bundle(new).inferer.padding == "edge"
    assert inferer_config(data_spec(padding="edge"), ("axial",))["padding"] == "edge"
    transforms = train_config({}, data_spec(padding="edge"))["train"]["preprocessing"]["transforms"]
    (padding,) = [each for each in transforms if each["_target_"].endswith("SpatialPadd")]
    assert padding["mode"] == "edge"


@pytest.mark.parametrize("views", [(), ("axial", "coronal")])
def test_bundles_carry_how_windows_are_blended(views, tmp_path):
    as_ever, alike = (inferer_config(data_spec(blend=blend), views) for blend in ("gaussian", "uniform"))
    assert make(as_ever, "inferer", "scripts").blend == "gaussian"
    assert make(alike, "inferer", "scripts").blend == "uniform"
    assert alike == as_ever | {"_target_": as_ever["_target_"].replace(".Sl", ".UniformSl").replace(".V", ".UniformV")}
    bundle = make_bundle(tmp_path / "alike", data_spec(blend="uniform"))
    assert open_bundle(bundle).inferer.blend == "uniform"
    assert "blend" not in data_spec().model_dump(mode="json")


def test_a_scan_that_shows_much_less_is_named(tmp_path, capfd):
    model = make_bundle(tmp_path / "model", data_spec(smallest_mm=(40.0, 40.0, 40.0)))
    straight = np.diag([-1.0, -1.0, 2.0, 1.0])
    make_image(tmp_path / "images" / "slab.nii.gz", shape=(40, 40, 9), affine=straight)
    make_image(tmp_path / "images" / "whole.nii.gz", shape=(31, 40, 20), affine=straight)
    report = predict(model, tmp_path / "images", tmp_path / "out")
    slab, whole = report["cases"]
    expected = "slab.nii.gz: shows 40 x 40 x 18 mm (x, y, z), the smallest scans of training 40 x 40 x 40"
    assert [expected in line for line in slab["warnings"]] == [True]
    assert whole["warnings"] == []
    assert expected in capfd.readouterr().err
    planes = data_spec(smallest_mm=(40.0, 40.0, 40.0), patch=(16, 16, 1), view="axial")
    of_planes = predict(make_bundle(tmp_path / "planes", planes), tmp_path / "images", tmp_path / "out2")
    assert [case["warnings"] for case in of_planes["cases"]] == [[], []]


def norm_of(pipeline) -> str | None:
    return pipeline.stages[0].network.options.get("norm")


def test_new_networks_have_the_planned_norm_and_those_from_a_bundle_its_own(tmp_path):
    manifest = write_dataset(tmp_path)
    from medseg.networks.registry import find

    planned = find("unet").planned["norm"]
    other = {"batch": "instance", "instance": "batch"}[planned]
    assert norm_of(write_plan("supervised", manifest, tmp_path / "a.yaml", overrides=FAST)) == planned
    chosen = [*FAST, f"stages.0.network.options.norm={other}"]
    assert norm_of(write_plan("supervised", manifest, tmp_path / "b.yaml", overrides=chosen)) == other
    assert norm_of(write_plan("dtc_la", manifest, tmp_path / "c.yaml")) is None  # a V-Net
    short = [*FAST, "stages.0.schedule.iterations=1"]
    for named in (other, None):
        first = make_bundle_with_norm(tmp_path / f"former_{named}", named)
        run = train("supervised", manifest, tmp_path / f"run_{named}", overrides=short, init_from=first)
        network = yaml.safe_load((run / "pipeline.yaml").read_text())["stages"][0]["network"]
        assert network["options"].get("norm") == named  # None: MONAI's own, as bundles from before have it


def make_bundle_with_norm(folder, norm: str | None):
    from medseg.bundle.bundle import write_bundle
    from medseg.config.instantiate import build_network
    from medseg.config.pipeline import NetworkSpec
    from medseg.networks.registry import network_def

    spec = data_spec(labels={0: "background", 1: "ball", 2: "box"}, modality=("MR",), spacing_mm=(1.0, 1.0, 1.5))
    options = {} if norm is None else {"norm": norm}
    network = NetworkSpec(name="unet", width=4, options=options)
    definition = network_def(network, patch=spec.patch, in_channels=1, out_channels=3)
    return write_bundle(folder, build_network(definition), network_def=definition, data=spec, name="tiny")
