"""Several views in one bundle: each plane beside a slow loop over slices, all of them beside MONAI alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from models import data_spec, labels_of, make_image, network_of
from stock import elsewhere
from torch import nn
from typer.testing import CliRunner

from medseg.bundle.bundle import open_bundle, write_bundle
from medseg.bundle.join import join_bundles
from medseg.cli.app import app
from medseg.config.instantiate import FORMER
from medseg.config.pipeline import NetworkSpec
from medseg.errors import BundleError, ConfigError
from medseg.networks import registry
from medseg.portable.inference.multi_view import ViewsInferer
from medseg.portable.inference.sliding_window import SlabInferer
from medseg.portable.inference.view_fusion import fuse_votes
from medseg.portable.networks.adapters import Planar, Views
from medseg.portable.planes import PLANES
from medseg.workflows.predict.models import configure_models
from medseg.workflows.predict.options import PredictOptions
from medseg.workflows.predict.run import predict

SPEC = data_spec(patch=(32, 32, 32), slices=3)


def plane_bundle(folder: Path, view: str, *, independent: bool = False) -> Path:
    """A bundle of one plane, whose network sees three slices."""
    spec = SPEC.of_view(view)
    inner = registry.network_def(
        NetworkSpec(name="unet", width=4), patch=(32, 32), in_channels=spec.channels, out_channels=spec.classes
    )
    definition = {
        "_target_": "medseg.portable.networks.adapters.Planar",
        "network": inner,
        "axis": spec.slice_axis,
        "slices": 3,
    }
    return write_bundle(
        folder, network_of(definition), network_def=definition, data=spec, name="tiny", independent=independent
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("views")
    parts = {view: plane_bundle(folder / view, view) for view in PLANES}
    join_bundles(folder / "all", parts, data=SPEC, name="tiny")
    make_image(folder / "images" / "ct.nii.gz")
    return folder


def with_former_names(folder: Path) -> Path:
    """Rewrite a bundle's configuration as medseg 0.1 named the classes of its scripts."""
    file = folder / "configs" / "inference.json"
    text = file.read_text()
    for former, name in FORMER.items():
        text = text.replace(f'"scripts.{name}"', f'"scripts.{former}"')
    assert text != file.read_text()
    file.write_text(text)
    return folder


def test_bundles_with_the_names_of_before_the_folders_open_and_join(world, tmp_path):
    parts = {view: with_former_names(plane_bundle(tmp_path / view, view)) for view in PLANES}
    join_bundles(tmp_path / "all", parts, data=SPEC, name="tiny")
    # what is written now has the names of the scripts that are written beside it
    assert "scripts.nets" not in (tmp_path / "all" / "configs" / "inference.json").read_text()
    assert open_bundle(tmp_path / "all").views == PLANES
    opened = open_bundle(with_former_names(tmp_path / "all"))
    image = torch.randn(1, 1, 32, 32, 32)
    torch.testing.assert_close(
        opened.network.networks["axial"](image), open_bundle(parts["axial"]).network(image), rtol=0, atol=0
    )


@pytest.fixture(scope="module")
def results(world) -> dict[str, np.ndarray]:
    """View, or "all" -> what `medseg predict` makes of the image."""
    for view in (*PLANES, "all"):
        chosen = [] if view == "all" else ["--view", view]
        arguments = ["predict", "-m", str(world / "all"), "-i", str(world / "images"), *chosen]
        done = CliRunner().invoke(app, [*arguments, "-o", str(world / "results" / view)])
        assert done.exit_code == 0, done.output
    return {view: labels_of(world / "results" / view / "ct.nii.gz") for view in (*PLANES, "all")}


def test_monai_alone_gives_the_voxels_of_medseg(world, results, tmp_path):
    copy = shutil.copytree(world / "all", tmp_path / "copy")
    run = ["-m", "monai.bundle", "run", "--config_file", "configs/inference.json", "--bundle_root", "."]
    places = ["--dataset_dir", str(world / "images"), "--output_dir", str(tmp_path / "out")]
    elsewhere(copy, *run, *places)
    image, theirs = nib.load(world / "images" / "ct.nii.gz"), nib.load(tmp_path / "out" / "ct.nii.gz")
    assert set(np.unique(results["all"])) == {0, 1, 7}
    np.testing.assert_array_equal(results["all"], theirs.dataobj)
    np.testing.assert_allclose(theirs.affine, image.affine, atol=1e-5)
    assert not (copy / "configs" / "train.json").exists()


CHECKS = """
import sys
from monai.bundle import run, verify_net_in_out
verify_net_in_out("network_def", "configs/metadata.json", "configs/inference.json", device="cpu")
run(config_file="configs/inference.json", bundle_root=".", dataset_dir=sys.argv[1], output_dir=sys.argv[2],
    **{"inferer#views": ["coronal"]})
"""


def test_monai_alone_predicts_one_view_and_accepts_the_metadata(world, results, tmp_path):
    copy = shutil.copytree(world / "all", tmp_path / "copy")
    elsewhere(copy, "-c", CHECKS, str(world / "images"), str(tmp_path / "out"))
    np.testing.assert_array_equal(results["coronal"], labels_of(tmp_path / "out" / "ct.nii.gz"))


def test_a_single_view_is_the_bundle_of_that_plane(world, results, tmp_path):
    for view in PLANES:
        predict(world / view, world / "images", tmp_path / view, views=[view])
        np.testing.assert_array_equal(labels_of(tmp_path / view / "ct.nii.gz"), results[view])
    assert len({results[view].tobytes() for view in results}) == 4
    two_of_three = [results[a] == results[b] for a, b in (PLANES[:2], PLANES[1:])]
    for agree, view in zip(two_of_three, PLANES[:2], strict=True):
        np.testing.assert_array_equal(results["all"][agree], results[view][agree])


def test_results_of_other_views_are_not_taken_for_done(world, tmp_path):
    asked = [predict(world / "all", world / "images", tmp_path, views=v) for v in ([], ["axial"], ["axial"])]
    assert [report["cases"][0]["status"] for report in asked] == ["done", "done", "skipped"]


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("all", {"views": ["frontal"]}, "--view frontal: the model has no such view; it has sagittal, coronal, axial"),
        ("axial", {"views": ["coronal"]}, "it has axial"),
        ("all", {"fusion": "sum"}, "--fusion sum: accepted are vote, any, mean"),
        ("axial", {"fusion": "any"}, "--fusion any: the model has one network"),
        ("all", {"probabilities": True}, "--view sagittal or --view coronal or --view axial"),
    ],
)
def test_what_views_cannot_do_is_one_line(model, options, words, world, tmp_path):
    with pytest.raises(ConfigError, match=words) as caught:
        predict(world / model, world / "images", tmp_path, **options)
    assert "\n" not in str(caught.value)


def test_without_a_background_no_view_can_be_silent(world, tmp_path):
    bundle = open_bundle(world / "all")
    bundle = replace(bundle, data=bundle.data.model_copy(update={"has_background": False}))
    asked = PredictOptions(model=world, inputs=world, output=tmp_path, fusion="any")
    with pytest.raises(ConfigError, match=r"--fusion any: .* have no background; accepted are vote, mean"):
        configure_models([bundle], asked, print)


def test_the_file_may_be_stored_along_any_axes(world, results, tmp_path):
    image = nib.load(world / "images" / "ct.nii.gz")
    turned = np.array([[2, -1], [0, 1], [1, -1]])  # axes and their directions
    (tmp_path / "in").mkdir()
    nib.save(image.as_reoriented(turned), tmp_path / "in" / "turned.nii.gz")
    predict(world / "all", tmp_path / "in", tmp_path / "out")
    found, expected = nib.load(tmp_path / "out" / "turned.nii.gz"), nib.Nifti1Image(results["all"], image.affine)
    expected = expected.as_reoriented(turned)
    np.testing.assert_array_equal(found.dataobj, expected.dataobj)
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-4)


def test_an_image_without_slices_is_refused(world, tmp_path):
    make_image(tmp_path / "in" / "flat.nii.gz", shape=(26, 30, 1))
    failed = predict(world / "all", tmp_path / "in", tmp_path / "out")["failed"]
    assert "one voxel along z, so that there is no sagittal view of it; ask for the axial view" in failed[0]["error"]
    assert not predict(world / "all", tmp_path / "in", tmp_path / "out", views=["axial"])["failed"]


def small(channels: int, slices: int, axis: int) -> Planar:
    torch.manual_seed(axis)
    return Planar(nn.Conv2d(channels * slices, 4, 3, padding=1), axis, slices).eval()


def slice_by_slice(net: Planar, volume: torch.Tensor) -> torch.Tensor:
    """Logits `(4, X, Y, Z)` of a volume `(C, X, Y, Z)`, the outermost slice repeated beyond the edges."""
    cut, out = volume.movedim(net.axis + 1, 0), []
    for i in range(len(cut)):
        near = [cut[min(max(j, 0), len(cut) - 1)] for j in range(i - net.slices // 2, i + net.slices // 2 + 1)]
        out.append(net.network(torch.stack([s[c] for c in range(len(volume)) for s in near])[None])[0])
    return torch.stack(out).movedim(0, net.axis + 1)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("slices", [1, 3])
def test_windows_of_a_plane_are_a_loop_over_slices(axis, slices):
    net, volume = small(2, slices, axis), torch.randn(1, 2, 11, 9, 10)
    window = [1 if a == axis else n for a, n in enumerate(volume.shape[2:])]
    inferer, kept = SlabInferer(window, context=net.context), []
    inferer.confidence = lambda shape: kept.append(np.zeros(shape, np.float16)) or kept[-1]
    with torch.no_grad():
        naive = slice_by_slice(net, volume[0]).softmax(0)
        labels = inferer(volume, net)
    assert torch.equal(labels[0, 0].long(), naive.argmax(0))
    np.testing.assert_allclose(kept[-1], naive.amax(0), atol=1e-3)


def three(slices: int = 3) -> Views:
    return Views({view: small(1, slices, axis) for axis, view in enumerate(PLANES)})


@torch.no_grad()
def test_all_views_are_the_vote_and_the_mean_of_each():
    nets, volume = three(), torch.randn(1, 1, 12, 10, 11)
    maps = [slice_by_slice(net, volume[0]).softmax(0) for net in nets.networks.values()]
    heard = []
    inferer = ViewsInferer(volume.shape[2:], PLANES)
    inferer.sink = lambda view, labels, confidence: heard.append((view, labels, confidence))
    fused = inferer(volume, nets)[0, 0]
    assert [view for view, *_ in heard] == list(PLANES)
    votes = [m.argmax(0).byte() for m in maps]
    assert all(torch.equal(labels, vote) for (_, labels, _), vote in zip(heard, votes, strict=True))
    assert torch.equal(fused, fuse_votes(votes, [m.amax(0).half() for m in maps]))
    seen = ViewsInferer(volume.shape[2:], PLANES, fusion="any")(volume, nets)[0, 0]
    assert torch.equal(seen, fuse_votes(votes, [m.amax(0).half() for m in maps], 0))
    values = ViewsInferer(volume.shape[2:], PLANES, fusion="any", label_values=[7, 1, 2, 3])(volume, nets)[0, 0]
    assert torch.equal(values, torch.where(seen == 0, 7, seen))
    mean = torch.stack(maps).mean(0)
    by_mean = ViewsInferer(volume.shape[2:], PLANES, fusion="mean")(volume, nets)[0, 0].long()
    lost = mean.amax(0) - mean.gather(0, by_mean[None])[0]
    assert float(lost.max()) < 2 / 255  # probabilities are kept in steps of 1/255
    assert not torch.equal(by_mean.byte(), fused)


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["vote", "any", "mean"])
def test_three_copies_of_one_view_are_that_view(fusion):
    nets, volume = three(), torch.randn(1, 1, 12, 10, 11)
    thrice = ViewsInferer((16, 16, 16), ("coronal",) * 3, fusion=fusion)(volume, nets)
    once = ViewsInferer((16, 16, 16), ("coronal",), fusion=fusion)(volume, nets)
    assert torch.equal(thrice, once)


@torch.no_grad()
def test_progress_counts_the_windows_of_all_views():
    said, inferer = [], ViewsInferer((8, 8, 8), PLANES)
    inferer.progress = lambda done, total: said.append((done, total))
    inferer(torch.randn(1, 1, 12, 10, 11), three())
    assert [done for done, _ in said] == sorted(done for done, _ in said)
    assert len({total for _, total in said}) == 1
    assert said[-1][0] == said[-1][1]


def test_views_that_are_none_are_refused():
    with pytest.raises(ValueError, match="there is no view axial; this model has coronal"):
        ViewsInferer((8, 8, 8), ["axial"])(torch.zeros(1, 1, 8, 8, 8), Views({"coronal": small(1, 1, 1)}))
    with pytest.raises(ValueError, match="views are sagittal"):
        Views({"frontal": small(1, 1, 1)})
    with pytest.raises(ValueError, match="must be odd"):
        Planar(nn.Identity(), 0, 2)
    with pytest.raises(ValueError, match="fusion must be one of vote, any, mean"):
        ViewsInferer((8, 8, 8), PLANES, fusion="sum")


def test_parts_that_do_not_belong_together_are_refused(world, tmp_path):
    with pytest.raises(BundleError, match="is of the view axial, not coronal"):
        join_bundles(tmp_path / "b", {"coronal": world / "axial"}, data=SPEC, name="tiny")
    coarse = SPEC.model_copy(update={"spacing_mm": (3.0, 3.0, 3.0)})
    with pytest.raises(BundleError, match="another spacing"):
        join_bundles(tmp_path / "b", {"axial": world / "axial"}, data=coarse, name="tiny")
    config = shutil.copytree(world / "all", tmp_path / "c") / "configs" / "inference.json"
    content = json.loads(config.read_text())
    content["network_def"]["networks"].pop("axial")
    config.write_text(json.dumps(content))
    with pytest.raises(BundleError, match="asks for the views"):
        open_bundle(tmp_path / "c")


class Constant(nn.Module):
    """The same logits at every voxel."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor(logits).view(1, -1, 1, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(image), -1, *image.shape[2:])


def test_views_of_sigmoids_have_the_mean_of_each_class_by_hand():
    """Probabilities 0.2 and 0.9 in one plane, 0.4 and 0.5 in the other: 0.3 and 0.7; a sure 1 stays finite."""
    networks = {}
    for view, axis, probabilities in (("axial", 2, (0.2, 0.9, 1.0)), ("coronal", 1, (0.4, 0.5, 1.0))):
        logits = torch.tensor(probabilities).logit(1e-30).clamp(max=99.0)
        networks[view] = Planar(Constant(*logits.tolist()), axis)
    found = Views(networks, independent=True)(torch.zeros(1, 1, 2, 2, 2))
    assert found.sigmoid()[0, :, 0, 0, 0].tolist() == pytest.approx([0.3, 0.7, 1.0])
    assert bool(torch.isfinite(found).all())
    together = Views(networks)(torch.zeros(1, 1, 2, 2, 2)).exp()
    assert together.sum(1).tolist()[0][0][0] == pytest.approx([1.0, 1.0])


def test_a_joint_bundle_of_sigmoids_knows_that_they_are(tmp_path):
    parts = {view: plane_bundle(tmp_path / view, view, independent=True) for view in ("axial", "coronal")}
    bundle = open_bundle(join_bundles(tmp_path / "all", parts, data=SPEC, name="tiny"))
    assert bundle.independent
    assert bundle.network.independent
    volume = torch.randn(1, 1, 32, 32, 32)
    found = bundle.network(volume).sigmoid()
    each = [open_bundle(path).network for path in parts.values()]
    padded = [nn.functional.pad(volume, pad, mode="replicate") for pad in ((1, 1, 0, 0, 0, 0), (0, 0, 1, 1, 0, 0))]
    with torch.no_grad():
        expected = sum(network(image).sigmoid() for network, image in zip(each, padded, strict=True)) / 2
    assert torch.allclose(found, expected, atol=1e-5)
