"""AuxSegNet by numbers worked out by hand: the affinity, the rule, the losses."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
import torch
from given_networks import factory

from medseg import methods
from medseg.config.instantiate import build_network
from medseg.errors import ConfigError, DataError, ManifestError
from medseg.manifest.manifest import Manifest
from medseg.method import Clock, Frozen, Predictions
from medseg.methods.auxsegnet import SaliencyFusion
from medseg.networks.factory import check_exportable, definition_of
from medseg.ops.tags.saliency import (
    between,
    fuse_with_saliency,
    local_contrast,
    saliency_of,
    sharpen,
    strength,
    unaries,
)
from medseg.portable.networks.tag_networks import AffinityFusion, TaskBranch, affordable_grid, enlarge, refine
from medseg.workflows.train import settings
from medseg.workflows.train.checks.streams import check_all_streams
from medseg.workflows.train.checks.tags import tag_warnings

CLOCK = Clock(0, 10)
AFFINITY = torch.tensor(
    [[0.422319, 0.155362, 0.422319], [0.211942, 0.576117, 0.211942], [0.422319, 0.155362, 0.422319]]
)
"""Of three positions with the features (1, 0), (0, 1), (1, 0)."""


def identity_branch(*, scaled: bool = False) -> TaskBranch:
    branch = TaskBranch(2, 2, 2, 1, (1, 1, 1), scaled)
    with torch.no_grad():
        for layer in (branch.theta, branch.phi):
            layer.weight.copy_(torch.eye(2).view(2, 2, 1, 1))
            layer.bias.zero_()
    return branch


def features(*columns: tuple[float, float]) -> torch.Tensor:
    return torch.tensor(columns).float().T.reshape(1, 2, 1, len(columns))


# The affinity.


def test_the_affinity_is_the_softmax_of_products():
    with torch.no_grad():
        found = identity_branch().affinity(features((1, 0), (0, 1), (1, 0)))[0]
        alike = identity_branch().affinity(features((1, 2), (1, 2)))[0]
    torch.testing.assert_close(found, AFFINITY, atol=1e-6, rtol=0)
    assert alike.tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_scaled_products_are_divided_by_the_root_of_the_channels():
    """exp(1 / sqrt 2) = 2.028115: rows (2.028115, 1, 2.028115) / 5.056230 and (1, 2.028115, 1) / 4.028115."""
    with torch.no_grad():
        found = identity_branch(scaled=True).affinity(features((1, 0), (0, 1), (1, 0)))[0]
    outer, middle = [0.401112, 0.197776, 0.401112], [0.248255, 0.503490, 0.248255]
    torch.testing.assert_close(found, torch.tensor([outer, middle, outer]), atol=1e-6, rtol=0)


def test_a_row_says_of_what_a_position_is_made():
    """Not transposed: the paper would give .186435 in the middle."""
    mixed = refine(AFFINITY[None], torch.tensor([[[[1, 0, 0.2]]]]))
    torch.testing.assert_close(mixed[0, 0, 0], torch.tensor([0.506783, 0.254330, 0.506783]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("normalize", [False, True])
def test_rows_of_the_fused_affinity_sum_to_1_where_they_are_normalised(normalize):
    fusion = AffinityFusion(normalize)
    both = torch.stack([AFFINITY, torch.full((3, 3), 1 / 3)])[None]
    first = torch.tensor([[0.9, 0.1, 0.5], [0.5, 0.5, 0.5], [0.2, 0.8, 0.3]])
    sums = fusion.combine(both, torch.stack([first, 1 - first])[None])[0].sum(1)
    expected = torch.ones(3) if normalize else torch.tensor([1.106783, 1.0, 0.902116])
    torch.testing.assert_close(sums, expected, atol=2e-6, rtol=0)


def test_two_equal_affinities_stay_what_they_are_whatever_the_weights():
    torch.manual_seed(0)
    one = torch.randn(2, 5, 5).softmax(2)
    for normalize in (False, True):
        torch.testing.assert_close(AffinityFusion(normalize)(one, one), one)


def test_without_the_output_projection_features_pass_unchanged():
    torch.manual_seed(0)
    branch = identity_branch()
    branch.output.weight.data.zero_()
    branch.output.bias.data.zero_()
    given = torch.randn(1, 2, 3, 4)
    logits, _ = branch(given)
    torch.testing.assert_close(logits, branch.head(branch.after(given)))


def test_permuted_positions_permute_the_affinity_of_a_task():
    torch.manual_seed(0)
    branch, given, order = TaskBranch(2, 2, 4, 1, (1, 1, 1)), torch.randn(1, 4, 1, 6), torch.randperm(6)
    with torch.no_grad():
        found, permuted = branch.affinity(given)[0], branch.affinity(given[..., order])[0]
    torch.testing.assert_close(permuted, found[order][:, order])


@pytest.mark.parametrize(
    ("shape", "most", "grid"),
    [((16, 16), 256, (16, 16)), ((16, 16), 255, (8, 16)), ((41, 30), 400, (21, 15)), ((3, 3, 3), 1, (1, 1, 1))],
)
def test_large_maps_are_halved_until_the_affinity_is_affordable(shape, most, grid):
    assert affordable_grid(shape, most) == grid


# The rule.


def fused(maps, saliency, present, possible=None, **thresholds) -> list[int]:
    present = torch.tensor(present)
    possible = present if possible is None else torch.tensor(possible)
    return fuse_with_saliency(torch.tensor(maps), torch.tensor(saliency), present, possible, **thresholds).tolist()


def test_the_fusion_rule_of_the_card():
    maps = [[0.9, 0.9, 0.1, 0.1, 0.3], [0.2, 0.95, 0.05, 0.1, 0.25]]
    saliency = [0.8, 0.05, 0.8, 0.01, 0.07]
    assert fused(maps, saliency, [True, True]) == [1, 255, 255, 0, 1]
    assert fused([[0.3], [0.9]], [0.8], [True, True]) == [2]
    assert fused([[0.3], [0.9]], [0.8], [True, False]) == [1]
    assert fused(maps, saliency, [False, False]) == [255, 0, 255, 0, 255]


def test_thresholds_are_strict():
    assert fused([[0.2]], [0.8], [True]) == [255]
    assert fused([[0.5]], [0.06], [True]) == [255]
    assert fused([[0.5, 0.25]], [0.25, 0.5], [True], object_threshold=0.25, salient_threshold=0.25) == [255, 255]


def test_where_a_class_that_nobody_looked_for_may_be_nothing_is_learnt():
    assert fused([[0.0, 0.0], [0.9, 0.1]], [0.0, 0.0], [True, False], [True, True]) == [255, 0]
    assert fused([[0.9, 0.9], [0.95, 0.1]], [0.8, 0.8], [True, False], [True, True]) == [255, 1]


def predictions(maps, saliency, tags) -> Predictions:
    """Of pixels in a row."""
    maps = torch.tensor(maps).view(len(maps), -1, 1, 1).half()
    saliency = torch.tensor(saliency).view(-1, 1, 1)
    inputs = {"saliency": saliency, "image": torch.rand(1, *saliency.shape)}
    return Predictions((), (), tags=tags, maps=[maps], inputs=inputs, name="case7")


def test_before_the_first_stage_the_maps_are_the_classifiers_and_the_saliency_is_the_files():
    case = predictions([[4.0, 2.0, -1.0, 0.4], [0.0, 9.0, 9.0, 0.0]], [1.0, 0.5, 0.5, 0.0], {1: True, 2: False})
    made = SaliencyFusion(3).label(case, {}, 1)
    assert made.label.flatten().tolist() == [1, 1, 255, 0]  # shares 1, .5, 0, .1
    assert made.maps["salient"].flatten().tolist() == [1.0, 0.5, 0.5, 0.0]


def test_later_the_refined_maps_are_divided_by_the_maximum_of_the_plain_ones():
    refined, plain, salient = [1.0, 0.4, 0.1], [4.0, 0.0, 0.0], [0.9, 0.1, 0.0]
    case = predictions([refined, plain, salient], [0.5, 0.1, 0.0], {1: True})
    made = SaliencyFusion(2, refinement="none").label(case, {}, 1)
    assert made.label.flatten().tolist() == [1, 0, 0]  # shares .25, .1, .025
    expected = sharpen(torch.tensor([0.7, 0.1, 0.0]))
    torch.testing.assert_close(made.maps["salient"].flatten(), expected, atol=1e-3, rtol=1e-2)


def test_a_case_without_tags_stays_without_a_label():
    assert SaliencyFusion(2).label(predictions([[1.0]], [1.0], None), {}, 1) is None


def test_an_image_of_none_of_the_classes_is_a_negative():
    made = SaliencyFusion(2).label(predictions([[5.0, 1.0]], [0.0, 0.9], {1: False}), {}, 1)
    assert made.label.flatten().tolist() == [0, 255]


def test_a_present_class_with_a_dead_map_gets_no_pixel():
    made = SaliencyFusion(2).label(predictions([[-1.0, 0.0]], [0.0, 0.9], {1: True}), {}, 1)
    assert made.label.flatten().tolist() == [0, 255]


# Saliency.


def test_saliency_of_8_bits_is_divided_and_other_values_are_refused():
    assert saliency_of(torch.tensor([0.0, 0.4, 1.0]), "a").tolist() == pytest.approx([0, 0.4, 1])
    assert saliency_of(torch.tensor([0, 51, 255]), "a").tolist() == pytest.approx([0, 0.2, 1])
    for values in ([0.0, 300.0], [-0.1, 1.0], [0.0, math.nan]):
        with pytest.raises(DataError, match=r"case7: saliency from .* accepted are 0 to 1, or 0 to 255"):
            saliency_of(torch.tensor(values), "case7")
    with pytest.raises(DataError, match=r"case7: saliency up to 1.5 that is not in whole numbers"):
        saliency_of(torch.tensor([0.0, 1.5]), "case7")


def test_the_unaries_of_the_card():
    background, salient = unaries(torch.tensor([0.5, 0.1, 0.06, 0.0]))
    torch.testing.assert_close(background[:3], torch.tensor([1.060535, 0.141140, 0.081948]), atol=1e-6, rtol=0)
    torch.testing.assert_close(salient, torch.tensor([1.060535, 4.177191, 5.202839, 35.087]), atol=1e-3, rtol=0)
    sharpened = sharpen(torch.tensor([0.1, 0.3, 0.5, 0.0, 1.0]))
    torch.testing.assert_close(sharpened, torch.tensor([0.017361, 0.184265, 0.5, 0, 1]), atol=1e-6, rtol=0)


def test_a_dark_spot_stands_out_where_dark_is_asked_for_and_a_bright_one_does_not():
    image = np.full((1, 48, 48, 1), 100.0)
    image[0, 10:16, 10:16] = 20
    image[0, 32:38, 32:38] = 180
    scales = [(3.0, 3.0, 0.0)]
    dark = local_contrast(image, scales, "dark")
    assert dark[13, 13, 0] > 0.9
    assert dark[35, 35, 0] == 0
    both = local_contrast(image, scales, "both")
    assert both[13, 13, 0] == pytest.approx(both[35, 35, 0], abs=1e-3)
    assert both.min() >= 0
    assert both.max() <= 1
    assert not local_contrast(np.ones((1, 8, 8, 1)), scales).any()


def test_strength_of_features_by_hand():
    # lengths 5, 1, 3 and 0 of (3, 4), (1, 0), (0, 3) and nothing
    features = torch.tensor([[[3.0, 1.0], [0.0, 0.0]], [[4.0, 0.0], [3.0, 0.0]]])
    torch.testing.assert_close(strength(features), torch.tensor([[1, 0.2], [0.6, 0]]))
    assert not strength(torch.ones(4, 3, 3)).any()
    torch.testing.assert_close(
        between(torch.tensor([0.1, 0.2, 0.35, 0.5, 1]), 0.2, 0.5), torch.tensor([0, 0, 0.5, 1, 1])
    )


# The losses.


def made(dims: int = 2, classes: int = 3, **options):
    torch.manual_seed(0)
    return methods.build("auxsegnet", factory(dims, classes, **options.pop("factory", {})), **options)


def batch_of(label: torch.Tensor, tags: torch.Tensor, salient: torch.Tensor) -> dict:
    image = torch.randn(len(label), 2, *label.shape[2:], generator=torch.Generator().manual_seed(0))
    return {"labeled": {"image": image, "label": label, "tags": tags, "salient": salient}}


def test_outputs_of_zero_cost_3_ln_2_and_2_ln_21():
    method = made(classes=21)
    for parameter in method.parameters():
        parameter.data.zero_()
    label = torch.randint(0, 21, (2, 1, 32, 24), dtype=torch.uint8)
    terms = method(batch_of(label, torch.randint(0, 2, (2, 20)), torch.rand(2, 1, 32, 24)), CLOCK)
    assert sum(terms.values()).item() == pytest.approx(3 * math.log(2) + 2 * math.log(21), abs=1e-5)
    nothing = method(batch_of(torch.full_like(label, 255), torch.full((2, 20), 255), torch.rand(2, 1, 32, 24)), CLOCK)
    torch.testing.assert_close(method.watched()["row_sums"], torch.ones(2))
    zero = {name for name, term in nothing.items() if term.item() == 0}
    assert zero == {"tags", "segmentation", "refined_segmentation"}


def test_dice_is_added_to_either_segmentation_where_it_has_a_weight():
    """By hand, all logits 0: 1/3 everywhere, half of 768 voxels of class 1 and a quarter of class 2.

    Dice of class 1 is 2 * 384/3 / (384 + 768/9) = 6/11, of class 2 2 * 192/3 / (192 + 768/9) = 6/13.
    """
    method = made(dice=0.5, refined_segmentation=2.0)
    label = torch.zeros(1, 1, 32, 24, dtype=torch.uint8)
    label[:, :, :16], label[:, :, 16:24] = 1, 2
    batch = batch_of(label, torch.tensor([[1, 1]]), torch.rand(1, 1, 32, 24))
    terms = method(batch, CLOCK)
    for name in ("segmentation_dice", "refined_segmentation_dice"):
        method.zero_grad()
        terms[name].backward(retain_graph=True)
        assert method.network.segmentation.head.weight.grad.abs().sum() > 0
    for parameter in method.parameters():
        parameter.data.zero_()
    terms = method(batch, CLOCK)
    by_hand = 1 - (6 / 11 + 6 / 13) / 2
    assert terms["segmentation_dice"].item() == pytest.approx(0.5 * by_hand, abs=1e-5)
    assert terms["refined_segmentation_dice"].item() == pytest.approx(0.5 * 2 * by_hand, abs=1e-5)
    assert not [name for name in made()(batch, CLOCK) if "dice" in name]
    with pytest.raises(ConfigError, match=r"dice -1: must be at least 0"):
        made(dice=-1.0)


def test_an_affinity_that_looks_at_one_position_is_told_in_the_last_step():
    """Of 64 positions each looks half at the first one, and half at all alike: that has 1 / 2 + 1 / 128 of all."""
    method, last = made(), Clock(99, 100)
    even = torch.full((2, 64, 64), 1 / 64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        method._watch(even, last)
    assert method.watched()["looked_at"].item() == pytest.approx(1 / 64)
    first = torch.zeros(2, 64, 64)
    first[:, :, 0] = 1
    method._watch((even + first) / 2, Clock(98, 100))
    assert method.watched()["looked_at"].item() == pytest.approx(1 / 2 + 1 / 128)
    assert method.watched()["row_sums"].tolist() == pytest.approx([1, 1])
    with pytest.warns(UserWarning, match=r"51% of the affinity is with one of 64 positions"):
        method._watch((even + first) / 2, last)


def test_labels_of_255_change_nothing_in_the_loss_of_the_same_outputs():
    method = made().eval()
    label = torch.randint(0, 3, (1, 1, 32, 24), dtype=torch.uint8)
    label[..., :12] = 255
    batch = batch_of(label, torch.tensor([[1, 0]]), torch.rand(1, 1, 32, 24))
    found = method.network.outputs(batch["labeled"]["image"])
    logits = enlarge(found.refine(found.segmentation), (32, 24))
    known = torch.nn.functional.cross_entropy(logits[..., 12:], label[:, 0, :, 12:].long())
    assert method(batch, CLOCK)["refined_segmentation"].item() == pytest.approx(known.item(), rel=1e-5)


def test_saliency_beyond_the_image_is_not_taught():
    """Half of the patch is padding, with a saliency of 0 that nobody said."""
    method = made().eval()
    salient = torch.rand(1, 1, 32, 24)
    salient[..., :12] = 0
    batch = batch_of(torch.zeros(1, 1, 32, 24, dtype=torch.uint8), torch.tensor([[1, 0]]), salient)
    inside = torch.zeros(1, 1, 32, 24, dtype=torch.bool)
    inside[..., 12:] = True
    batch["labeled"]["inside"] = inside
    found = method.network.outputs(batch["labeled"]["image"])
    terms = method(batch, CLOCK)
    for name, logits in (("saliency", found.saliency), ("refined_saliency", found.refine(found.saliency))):
        shown = enlarge(logits, (32, 24))[..., 12:]
        known = torch.nn.functional.binary_cross_entropy_with_logits(shown, (salient[..., 12:] > 0.5).float())
        assert terms[name].item() == pytest.approx(known.item(), rel=1e-5)


@pytest.mark.parametrize("term", ["refined_saliency", "refined_segmentation"])
def test_each_refined_loss_trains_the_affinity_of_both_tasks(term):
    method = made()
    label = torch.randint(0, 3, (2, 1, 32, 24), dtype=torch.uint8)
    terms = method(batch_of(label, torch.tensor([[1, 0], [1, 1]]), torch.rand(2, 1, 32, 24)), CLOCK)
    terms[term].backward()
    for branch in (method.network.segmentation, method.network.saliency):
        for layer in (branch.theta, branch.phi):
            assert bool(layer.weight.grad.any())


def test_the_refined_head_is_exported_unless_it_is_not_trained():
    method = made().eval()
    image = torch.randn(1, 2, 32, 24)
    found = method.network.outputs(image)
    torch.testing.assert_close(method.segmenter()(image), enlarge(found.refine(found.segmentation), (32, 24)))
    plain = made(refined_segmentation=0.0).eval()
    torch.testing.assert_close(plain.segmenter()(image), enlarge(plain.network.outputs(image).segmentation, (32, 24)))
    check_exportable(method.segmenter())


@pytest.mark.parametrize("dims", [2, 3])
def test_a_stage_starts_from_the_weights_of_the_stage_before(dims):
    before = methods.build("tag_classifier", factory(dims)).pretrained()
    with torch.no_grad():
        for parameter in before.parameters():
            parameter.add_(0.5)
    method = methods.build("auxsegnet", factory(dims, previous=Frozen(before), start=True))
    assert torch.equal(method.network.classifier.weight, before.classifier.weight)
    after = methods.build("auxsegnet", factory(dims, previous=Frozen(method.segmenter()), start=True))
    for name, value in method.network.state_dict().items():
        assert torch.equal(value, after.network.state_dict()[name]), name


def test_classes_of_another_data_set_are_matched_by_name_in_both_heads():
    before = made(classes=3).segmenter()
    networks = factory(2, 3, previous=Frozen(before, ("background", "class2", "new")), start=True)
    network = methods.build("auxsegnet", networks).network
    assert torch.equal(network.segmentation.head.weight[2], before.segmentation.head.weight[1])
    assert torch.equal(network.segmentation.head.weight[0], before.segmentation.head.weight[0])
    assert torch.equal(network.classifier.weight[1], before.classifier.weight[0])
    assert not torch.equal(network.classifier.weight[0], before.classifier.weight[1])


def test_the_definition_of_the_network_makes_it_again():
    network = made(affinity="scaled_cross", dilations=[1, 2, 3]).segmenter()
    again = build_network(definition_of(network))
    assert again.state_dict().keys() == network.state_dict().keys()
    assert (again.cross, again.fusion.normalize_rows) == (True, False)
    assert again.saliency.scale == again.segmentation.scale == network.segmentation.scale < 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"width": 0}, "width 0: must be at least 1"),
        ({"most_positions": 0}, "most_positions 0: must be at least 1"),
        ({"dilations": [1, 2]}, r"dilations are \[1, 2\]; accepted are three numbers"),
        ({"stride": 0}, "stride 0: the network's finest feature map has 1"),
    ],
)
def test_options_that_cannot_be_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        made(**options)


def test_a_data_set_without_a_background_is_refused():
    networks = factory(2)
    networks.has_background = False
    with pytest.raises(ConfigError, match="the data set has no background"):
        methods.build("auxsegnet", networks)


def test_one_class_and_one_channel_work():
    method = methods.build("auxsegnet", factory(2, 2, channels=1))
    label = torch.randint(0, 2, (2, 1, 32, 24), dtype=torch.uint8)
    batch = batch_of(label, torch.tensor([[1], [0]]), torch.zeros(2, 1, 32, 24))
    batch["labeled"]["image"] = batch["labeled"]["image"][:, :1]
    assert all(bool(torch.isfinite(term)) for term in method(batch, CLOCK).values())


# What a data set must have.


def write_tags(folder, tags, **more):
    cases = [{"image": f"{n}.nii.gz", "tags": each, **more} for n, each in enumerate(tags)]
    content = {"labels": {"0": "background", "1": "ball", "2": "box"}, "modality": {"0": "MR"}, "training": cases}
    (folder / "m.json").write_text(json.dumps(content))
    return Manifest.load(folder / "m.json")


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ([["ball"], ["ball"], []], ["no image is tagged with box: x cannot learn it"]),
        (
            [["ball"], ["ball", "box"]],
            [
                "ball is in every image whose tags tell of it: it teaches x nothing",
                "no image is tagged with nothing ([]): x sees no background by itself",
            ],
        ),
        ([["ball"], ["box"], []], []),
        ([{"ball": True}, {"ball": False, "box": True}, {"box": False}], []),
    ],
)
def test_tags_that_teach_nothing_are_said(tmp_path, tags, said):
    manifest = write_tags(tmp_path, tags)
    assert list(tag_warnings(manifest, manifest.training, "x")) == said


def test_a_case_without_saliency_is_refused_by_name(tmp_path):
    manifest = write_tags(tmp_path, [["ball"], []])
    with pytest.raises(ManifestError, match="needs a map called 'saliency' of each case that it labels; 2 have none"):
        check_all_streams(settings.load("auxsegnet"), manifest)
