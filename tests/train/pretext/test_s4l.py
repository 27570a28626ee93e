"""S4L and its parts: rotations, triplets, virtual adversarial training, and what the card's numbers say."""

from __future__ import annotations

import math

import pytest
import torch
from every_method import CLOCK, make_batch
from given_networks import factory
from torch import Tensor, nn

from medseg.config.pipeline import DataSpec, NetworkSpec, Pipeline
from medseg.errors import ConfigError
from medseg.method import Frozen
from medseg.methods import build, build_rule
from medseg.methods.s4l import MeanOverRotations, half_life_decay, sum_of
from medseg.networks.factory import NetworkFactory
from medseg.networks.transfer import PartOf
from medseg.ops.batch_statistics import frozen_statistics
from medseg.ops.losses import virtual_adversarial as vat
from medseg.ops.losses.triplets import batch_hard, hardest
from medseg.ops.pretext.encoders import encoder_tensors
from medseg.ops.pretext.exemplar_views import make_views
from medseg.ops.pretext.rotated_copies import RotatedCopies, plan_copies
from medseg.ops.pretext.rotations import Rotation, choose_rotations, cube_rotations, quarter_turns
from medseg.ops.pretext.tasks import ExemplarTask, RotationTask, answers, exemplar_loss
from medseg.ops.semi_supervised.teacher import AveragedTeacher
from medseg.pseudo_labels import Predictions
from medseg.workflows.train.checks.orientation import check_upright

SQUARE = torch.tensor([[0, 1], [2, 3]])[None, None]
CUBE = torch.arange(27).reshape(1, 1, 3, 3, 3)
EQUAL = (1.0, 1.0, 1.0)


def outputs(rotations) -> set[tuple[int, ...]]:
    return {tuple(rotation(CUBE).flatten().tolist()) for rotation in rotations}


# Rotations.


def test_quarter_turns_are_counter_clockwise():
    turned = choose_rotations("quarter4", (1.0, 1.0)).turn(SQUARE.expand(4, 1, 2, 2), range(4))
    expected = [[[0, 1], [2, 3]], [[1, 3], [0, 2]], [[3, 2], [1, 0]], [[2, 0], [3, 1]]]
    assert turned[:, 0].tolist() == expected
    assert turned.dtype == SQUARE.dtype


@pytest.mark.parametrize("pair", [(0, 1), (0, 2), (1, 2)])
def test_quarter_turns_are_those_of_torch_and_undo_one_another(pair):
    for count in range(4):
        turned = quarter_turns(3, pair, count)(CUBE)
        assert torch.equal(turned, CUBE.rot90(count, [axis + 2 for axis in pair]))
        assert torch.equal(quarter_turns(3, pair, (4 - count) % 4)(turned), CUBE)


def test_the_24_rotations_of_a_cube_are_a_group():
    rotations = cube_rotations()
    assert rotations[0] == Rotation((0, 1, 2))
    every = outputs(rotations)
    assert len(every) == 24
    for one in rotations:
        assert torch.equal(one.inverse()(one(CUBE)), CUBE)
        for other in rotations:
            assert tuple(one(other(CUBE)).flatten().tolist()) in every


def test_sets_of_rotations_have_as_many_as_they_are_called_after():
    every = outputs(cube_rotations())
    for name, spacing, count in (
        ("axis10", EQUAL, 10), ("axial4", (1, 1, 5), 4), ("half4", (1, 2, 3), 4), ("cube24", EQUAL, 24)
    ):  # fmt: skip
        found = choose_rotations(name, spacing)
        assert len(found) == len(outputs(found.rotations)) == count
        assert outputs(found.rotations) <= every
        assert torch.equal(found.rotations[0](CUBE), CUBE)
    assert len(choose_rotations("half2", (1, 2))) == 2


@pytest.mark.parametrize(
    ("spacing", "native", "name", "exchanged"),
    [
        ((1, 1.04), None, "quarter4", (0, 1)),
        ((1, 1.06), None, "half2", ()),
        (EQUAL, None, "axis10", (0, 1, 2)),
        ((5, 1, 1), None, "axial4", (1, 2)),
        (EQUAL, (1, 1, 5), "axial4", (0, 1)),  # resampled: blurred across the slices
        ((1, 2, 3), None, "half4", ()),
    ],
)
def test_the_largest_set_is_chosen_that_the_spacing_does_not_give_away(spacing, native, name, exchanged):
    found = choose_rotations("auto", spacing, native)
    assert (found.name, found.exchanged) == (name, exchanged)


@pytest.mark.parametrize(
    ("name", "spacing", "native", "message"),
    [
        ("quarter4", (1, 1.2), None, "exchanges the axes 0 and 1 of the network, whose spacing is 1 and 1.2 mm"),
        ("cube24", EQUAL, (1, 1, 5), "the axes 0 and 2 of the network, whose spacing of the files is 1 and 5 mm"),
        ("axial4", (1, 2, 3), None, "accepted is axial4 of two that are alike, or half4, or auto"),
        ("cube24", (1, 1), None, "not known for planes; one of auto, quarter4, half2"),
    ],
)
def test_a_set_that_the_spacing_gives_away_is_refused(name, spacing, native, message):
    with pytest.raises(ValueError, match=message):
        choose_rotations(name, spacing, native)


# Copies.


def test_copies_follow_one_another_and_their_labels_are_turned_with_them():
    copies = RotatedCopies(choose_rotations("quarter4", (1.0, 1.0)), 4, "all")
    image = torch.rand(2, 1, 4, 4)
    label = (image > 0.5).to(torch.uint8)
    made = copies(image, label)
    assert made.number.tolist() == [0, 1, 2, 3] * 2
    assert torch.equal(made.label, (made.image > 0.5).to(torch.uint8))
    assert torch.equal(made.image[4], image[1])
    assert made.number.bincount().tolist() == [2] * 4


def test_one_copy_is_upright_and_one_is_not():
    copies = RotatedCopies(choose_rotations("axis10", EQUAL), 4, "one")
    made = copies(torch.rand(20, 1, 4, 4, 4))
    assert bool((made.number[0::2] == 0).all())
    assert bool((made.number[1::2] > 0).all())


def test_a_patch_that_is_not_square_is_cut_for_its_copies():
    copies = RotatedCopies(choose_rotations("quarter4", (1.0, 1.0)), 4, "all")
    image = torch.arange(24.0).reshape(1, 1, 4, 6)
    made = copies(image, image)
    assert made.image.shape == (4, 1, 4, 4)
    assert torch.equal(made.image, made.label)
    assert any(torch.equal(made.image[0, 0], image[0, 0, :, start : start + 4]) for start in range(3))


@pytest.mark.parametrize(
    ("name", "patch", "said"),
    [
        (
            "axis10",
            (16, 24, 16),
            "axis10: 10 rotations that exchange the axes 0, 1, 2 of the network; of parts of 16 voxels",
        ),
        ("axial4", (16, 16, 8), "axial4: 4 rotations that exchange the axes 0, 1 of the network"),
        ("half4", (16, 24, 8), "half4: 4 rotations, half turns"),
    ],
)
def test_rotations_are_described(name, patch, said):
    copies = plan_copies(name, factory(3).encoder_decoder(), patch, EQUAL, EQUAL)
    assert copies.describe(patch).removesuffix(" along these") == said


# Tasks.


@pytest.mark.parametrize("count", [4, 10, 24])
def test_a_head_of_zeros_costs_the_logarithm_of_the_number_of_rotations(count):
    task = RotationTask(5, choose_rotations({4: "axial4", 10: "axis10", 24: "cube24"}[count], EQUAL))
    nn.init.zeros_(task.head.weight)
    nn.init.zeros_(task.head.bias)
    loss = task.loss(task(torch.rand(3, 5)), torch.tensor([0, 1, 3]), torch.tensor([True] * 3))
    assert loss.item() == pytest.approx(math.log(count), abs=1e-6)


def test_a_picture_has_copies_turned_back_by_the_rotation_found():
    rotations = choose_rotations("quarter4", (1.0, 1.0))
    task = RotationTask(5, rotations)
    copies = rotations.turn(SQUARE.float().expand(4, 1, 2, 2), range(4))
    found = torch.tensor([0, 1, 2, 0])  # the last one is wrong
    task.show(copies, nn.functional.one_hot(found, 4).float())
    sheet = task.pictures()["rotations"] * 3
    # x is drawn to the right, y downwards: 0, 2 above 1, 3 is the square as it was
    assert sheet[0, :2].tolist() == [[0, 2, 1, 0, 3, 1, 2, 3], [1, 3, 3, 2, 2, 0, 0, 1]]
    assert sheet[0, 2:].tolist() == [[0, 2, 0, 2, 0, 2, 2, 3], [1, 3, 1, 3, 1, 3, 0, 1]]


@pytest.mark.parametrize("dims", [2, 3])
def test_there_are_pictures_of_both_tasks(dims):
    method = build("s4l", factory(dims), exemplar=1.0)
    assert method.pictures() == {}
    method(make_batch(method, dims), CLOCK)
    pictures = method.pictures()
    assert list(pictures) == ["rotations", "exemplar"]
    views = {2: 8, 3: 4}[dims]
    assert pictures["exemplar"].shape == (1, 2 * 24, views * (32, 16)[dims - 2])  # two images


def test_answers_by_hand():
    # softmax of (5, 0): 0.9933, of (0.1, 0): 0.525, a guess; the last copy counts for nothing
    logits = torch.tensor([[5.0, 0.0], [0.0, 5.0], [0.1, 0.0], [5.0, 0.0], [5.0, 0.0]])
    found = answers(logits, torch.tensor([0, 0, 1, 1, 1]), torch.tensor([True] * 4 + [False]))
    assert {name: share.item() for name, share in found.items()} == {"rotations found": 0.25, "rotations mistaken": 0.5}


def test_an_image_of_one_grey_value_is_in_no_mean_of_the_task():
    torch.manual_seed(0)
    method = build("rotation", factory(2, channels=1))
    image = torch.randn(2, 1, 32, 24)
    image[1] = 3.0
    alone = method({"all": {"image": image[1:]}}, CLOCK)["rotation"]
    assert alone.item() == 0
    assert method.watched()["rotations found"].item() == 0
    method.eval()
    seen = method({"all": {"image": image[:1]}}, CLOCK)["rotation"].item()
    shares = [method.watched()["rotations found"].item()]
    assert method({"all": {"image": image}}, CLOCK)["rotation"].item() == pytest.approx(seen, rel=1e-5)
    shares.append(method.watched()["rotations found"].item())
    assert shares[0] == shares[1]


EMBEDDINGS = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]])


def test_triplets_by_hand():
    identities = torch.tensor([0, 0, 1, 1])
    found = hardest(EMBEDDINGS, identities)
    assert found.positive.tolist() == pytest.approx([0.6325] * 4, abs=1e-4)
    assert found.negative.tolist() == pytest.approx([1.4142, 0.8944, 0.8944, 1.4142], abs=1e-4)
    each = nn.functional.softplus(found.positive - found.negative)
    assert each.tolist() == pytest.approx([0.3768, 0.5707, 0.5707, 0.3768], abs=1e-4)
    assert batch_hard(EMBEDDINGS, identities).item() == pytest.approx(0.4738, abs=1e-4)
    # with a margin of 0.5: 0, 0.2380, 0.2380, 0
    assert batch_hard(EMBEDDINGS, identities, margin=0.5).item() == pytest.approx(0.1190, abs=1e-4)


def test_equal_embeddings_cost_log_2_and_have_a_finite_gradient():
    same = torch.ones(4, 3, requires_grad=True)
    loss = batch_hard(same, torch.tensor([0, 0, 1, 1]))
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)
    loss.backward()
    assert bool(torch.isfinite(same.grad).all())


@pytest.mark.parametrize(
    ("identities", "message"),
    [([0, 0, 0, 0], "at least two identities in a batch"), ([0, 0, 1, 2], "at least two embeddings of each")],
)
def test_triplets_that_cannot_be_made(identities, message):
    with pytest.raises(ValueError, match=message):
        batch_hard(EMBEDDINGS, torch.tensor(identities))


@pytest.mark.parametrize("dims", [2, 3])
def test_views_stay_within_the_values_of_their_image(dims):
    torch.manual_seed(0)
    image = torch.randn(2, 3, *(8,) * dims)
    views = make_views(image, 5)
    assert views.shape == (10, 3, *(8,) * dims)
    for number, view in enumerate(views):
        own = image[number // 5]
        assert bool((view >= own.amin() - 1e-5).all())
        assert bool((view <= own.amax() + 1e-5).all())
    assert len({view.sum().item() for view in views}) == 10


def test_a_part_of_one_image_is_left_out_of_the_exemplar_task():
    network = factory(2, channels=1).encoder_decoder().eval()
    task = ExemplarTask(network.channels[-1], 2, 2, 8)
    images = torch.rand(3, 1, 32, 24)
    losses = []
    for parts in ([images], [images, images[:1]]):
        torch.manual_seed(0)
        losses.append(exemplar_loss(task, network, parts).item())
    assert losses[0] == pytest.approx(losses[1])


def test_the_exemplar_task_tells_the_distances_of_its_triplets():
    identities = torch.tensor([0, 0, 1, 1, 2, 2])
    embeddings = torch.cat([EMBEDDINGS, torch.tensor([[1.0, 0.0], [1.0, 0.0]])])
    task = ExemplarTask(2, 2)
    counted = torch.tensor([True] * 4 + [False] * 2)  # as of an image of one grey value
    assert task.loss(embeddings, identities, counted).item() == pytest.approx(0.4738, abs=1e-4)
    found = {name: value.item() for name, value in task.watched.items()}
    expected = {"farthest view of the image": 0.6325, "nearest other image": (1.4142 + 0.8944) / 2}
    assert found == pytest.approx(expected, abs=1e-4)


def test_planes_have_eight_views_and_volumes_four():
    assert [build("exemplar", factory(dims)).task.views for dims in (2, 3)] == [8, 4]
    assert build("exemplar", factory(2), views=3).task.views == 3


def test_the_exemplar_task_needs_two_images_and_two_views():
    network = factory(2, channels=1).encoder_decoder()
    task = ExemplarTask(network.channels[-1], 2, 2, 8)
    with pytest.raises(ConfigError, match="tells images of a batch apart, and each stream has one"):
        exemplar_loss(task, network, [torch.rand(1, 1, 32, 24)])
    with pytest.raises(ConfigError, match="views is 1"):
        build("exemplar", factory(2), views=1)


# Virtual adversarial training.


def test_the_divergences_of_the_card():
    p, q = torch.tensor([[0.7, 0.3]]).log(), torch.tensor([[0.6, 0.4]]).log()
    assert vat.divergence(p, q).item() == pytest.approx(0.02160, abs=1e-5)
    assert vat.divergence(q, p, "clean").item() == pytest.approx(0.02160, abs=1e-5)
    assert vat.divergence(p, q, "clean").item() == pytest.approx(0.02258, abs=1e-5)


def test_what_lies_outside_of_an_image_is_not_in_the_means():
    p = torch.tensor([[[0.7, 0.5], [0.3, 0.5]]]).log()  # two voxels
    q = torch.tensor([[[0.6, 0.5], [0.4, 0.5]]]).log()
    first = torch.tensor([[[True, False]]])
    assert vat.divergence(p, q).item() == pytest.approx(0.02160 / 2, abs=1e-5)
    assert vat.divergence(p, q, inside=first).item() == pytest.approx(0.02160, abs=1e-5)
    # -0.7 log 0.7 - 0.3 log 0.3 = 0.6109, and log 2 = 0.6931
    assert vat.mean_entropy(p).item() == pytest.approx((0.6109 + 0.6931) / 2, abs=1e-4)
    assert vat.mean_entropy(p, first).item() == pytest.approx(0.6109, abs=1e-4)


def test_the_adversarial_change_has_its_length_and_leaves_the_statistics():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1))
    image = torch.randn(2, 1, 8, 8)
    clean = network(image)
    before = {name: value.clone() for name, value in network.named_buffers()}
    with frozen_statistics(network):
        change = vat.adversarial_change(network, image, clean.detach(), 0.25, "changed")
    assert change.flatten(1).norm(dim=1).tolist() == pytest.approx([0.25 * 8] * 2, rel=1e-5)
    loss = vat.adversarial_loss(network, image, clean, radius=0.25)
    for name, value in network.named_buffers():
        assert torch.equal(value, before[name])
    random = vat.of_length(torch.randn(image.shape), 0.25)
    with frozen_statistics(network):
        assert loss.item() > vat.divergence(network(image + random), clean).item()
    (gradient,) = torch.autograd.grad(loss, clean, allow_unused=True)
    assert gradient is None
    network(image)
    assert not torch.equal(network[1].running_mean, before["1.running_mean"])


def test_mixed_precision_seeks_the_same_direction():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1))
    image = torch.randn(1, 1, 16, 16)
    found = []
    for mixed in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            clean = network(image).detach()
            found.append(vat.adversarial_change(network, image, clean, 1.0, "changed"))
    assert (found[0] * found[1]).mean().item() == pytest.approx(1, abs=1e-3)


def test_the_averaged_network_has_a_half_life():
    assert half_life_decay(100) == pytest.approx(0.993092, abs=1e-6)
    student = nn.Linear(1, 1, bias=False)
    nn.init.constant_(student.weight, 2.0)
    teacher = AveragedTeacher(student, decay=half_life_decay(100))
    nn.init.constant_(student.weight, 4.0)
    for step in range(1000, 1100):  # where the rise of the decay is over
        teacher.follow(student, step)
    assert teacher.network.weight.item() == pytest.approx(3.0, abs=1e-4)


# The method.


def test_without_the_tasks_and_copies_it_is_supervised_training():
    torch.manual_seed(0)
    batch = make_batch(build("s4l", factory(3)), 3)
    torch.manual_seed(0)
    method = build("s4l", factory(3), rotation=0.0, turned=0.0).eval()  # without dropout and statistics of batches
    terms = method(batch, CLOCK)
    labeled = batch["labeled"]
    expected = method.terms(method.headed(labeled["image"]).float(), labeled["label"], None)
    for name, term in expected.items():
        assert terms[name].item() == pytest.approx(term.item(), rel=1e-5)
    assert terms["rotation"].item() == terms["turned"].item() == 0


def test_with_weight_0_it_learns_what_supervised_training_of_the_copies_does():
    """Two steps of both; a network without statistics of the batch, which sees the copies in other company."""
    networks = [factory(2, name="dynunet") for _ in range(2)]
    method = build("s4l", networks[0], rotation=0.0, turned=1.0)
    network = networks[1].headed(networks[1].encoder_decoder(), networks[1].head(4, 3))
    network.load_state_dict(method.headed.state_dict())
    batch = {"labeled": make_batch(method, 2)["labeled"]}
    ours, theirs = (torch.optim.SGD(each.parameters(), 0.01) for each in (method, network))
    for step in range(2):
        torch.manual_seed(step)
        ours.zero_grad()
        sum_of(method(batch, CLOCK)).backward()
        ours.step()
        torch.manual_seed(step)
        copies = method.copies(batch["labeled"]["image"], batch["labeled"]["label"])
        whole = sum_of(method.terms(network(batch["labeled"]["image"]), batch["labeled"]["label"]))
        turned = copies.number > 0
        theirs.zero_grad()
        (whole + sum_of(method.terms(network(copies.image[turned]), copies.label[turned]))).backward()
        theirs.step()
    assert not torch.equal(network.head.convolution.weight, build("s4l", networks[0]).headed.head.convolution.weight)
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(method.headed.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["s4l", "mean_teacher", "ael", "crest"])
def test_a_loss_of_a_sigmoid_is_refused_where_a_softmax_predicts(name):
    message = f"method {name}: loss binary_cross_entropy is for a sigmoid .* softmax: cross_entropy, locally_adaptive"
    with pytest.raises(ConfigError, match=message):
        build(name, factory(2), loss="binary_cross_entropy")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"vat": -1.0}, "vat is -1; accepted: 0 or more"),
        ({"half_life": -5.0}, "half_life is -5; accepted: 0 or more"),
        ({"vat_radius": 0.0}, "vat_radius is 0; accepted: a number above 0"),
    ],
)
def test_weights_that_are_refused(option, message):
    with pytest.raises(ConfigError, match=f"method s4l: {message}"):
        build("s4l", factory(2), **option)


def test_heads_of_the_tasks_are_not_in_what_predicts():
    method = build("s4l", factory(2), exemplar=1.0)
    names = set(method.segmenter().state_dict())
    assert not any("task" in name for name in names)


def test_the_mean_over_rotations_turns_each_back():
    by_voxel = nn.Conv2d(1, 2, 1)
    square = choose_rotations("quarter4", (1.0, 1.0))
    image = torch.randn(1, 1, 4, 4)
    mean = MeanOverRotations(by_voxel, square)
    torch.testing.assert_close(mean(image), by_voxel(image).softmax(1))
    torch.testing.assert_close(mean(image.rot90(1, (2, 3))), mean(image).rot90(1, (2, 3)))
    oblong = torch.randn(1, 1, 4, 6)  # only half turns leave it as it is
    torch.testing.assert_close(mean(oblong), by_voxel(oblong).softmax(1))


def test_it_is_logits_that_are_averaged_over_rotations():
    """Of p = 0.9 seen upright and p = 0.5 upside down the odds are 3, not those of the mean 0.7."""

    class UprightOnly(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            logit = math.log(9) if image[0, 0, 0, 0] == 1 else 0.0
            return torch.cat([torch.zeros_like(image), torch.full_like(image, logit)], 1)

    image = torch.tensor([[[[1.0, 0.0, 0.0]]]])  # half turns alone leave it as long
    found = MeanOverRotations(UprightOnly(), choose_rotations("half2", (1.0, 1.0)))(image)
    assert found[0, 1].flatten().tolist() == pytest.approx([0.75] * 3)


def test_rules_of_moam():
    maps = torch.zeros(3, 2, 2, 1, dtype=torch.float16)
    maps[2, 0] = 1
    case = Predictions([], [], maps=[maps])
    label = build_rule("s4l", 3).label(case, {}, 1)
    assert label.tolist() == [[[2], [2]], [[0], [0]]]
    assert label.dtype == torch.uint8
    assert build_rule("true_labels", 3).label(case, {}, 1) is None


# Encoders.


@pytest.mark.parametrize("name", ["unet", "dynunet", "segresnet", "vnet"])
def test_the_tensors_of_an_encoder_are_those_that_its_features_depend_on(name):
    network = factory(2, name=name).encoder_decoder()
    found = set(encoder_tensors(network, 2, (32, 32)))
    features = network.encode(torch.randn(2, 2, 32, 32))
    total = sum((feature**2).sum() for feature in features)
    names, parameters = zip(*network.named_parameters(), strict=True)
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    used = {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}
    assert used == found & set(names)


def make_start(name: str) -> tuple[nn.Module, list[str]]:
    network = factory(2, name=name).encoder_decoder()
    return network, encoder_tensors(network, 2, (32, 32))


@pytest.mark.parametrize("name", ["unet", "dynunet", "vnet"])
@pytest.mark.parametrize("method", ["supervised", "s4l", "ael"])
def test_a_method_takes_the_encoder_alone(name, method):
    network, names = make_start(name)
    previous = Frozen(PartOf(network, names))
    networks = factory(2, name=name, previous=previous, start=True)
    build(method, networks)
    taken = networks.copied[0]
    assert taken.whole == len(names)
    assert taken.left


# Augmentation.


def upright(**augment) -> None:
    data = DataSpec(
        labels={0: "background", 1: "a"}, modality=("MR",), spacing_mm=EQUAL, patch=(16, 16, 1), view="axial",
        augment=augment,
    )  # fmt: skip
    check_upright(Pipeline(name="x", stages=({"method": {"name": "rotation"}},)), data)


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        ({"rot90": {"axes": [0, 1]}}, "data.augment.rot90.axes is .0, 1.: rotation asks which way up"),
        ({"flip": {"axes": [0, 1]}}, "two of them together are a half turn"),
        ({"affine": {"rotate_degrees": [0, 0, 90]}}, "accepted are at most 15"),
    ],
)
def test_augmentation_must_not_contain_the_turns_that_are_asked_for(augment, message):
    with pytest.raises(ConfigError, match=message):
        upright(**augment)
    upright(flip={"axes": [1, 2]}, rot90={"axes": [0, 2]})  # nothing turns out of the plane


def test_the_control_without_the_question_may_be_turned():
    data = DataSpec(labels={0: "b", 1: "a"}, modality=("MR",), spacing_mm=EQUAL, patch=(8, 8, 1), view="axial",
                    augment={"rot90": {"axes": [0, 1]}})  # fmt: skip
    for weight in (0.0, 0.1):
        pipeline = Pipeline(name="x", stages=({"method": {"name": "s4l", "options": {"rotation": weight}}},))
        if weight:
            with pytest.raises(ConfigError, match="s4l asks which way up"):
                check_upright(pipeline, data)
        else:
            check_upright(pipeline, data)


@pytest.mark.parametrize(
    ("patch", "spacing", "options", "message"),
    [
        ((32, 32, 1), (1.0, 1.2, 5.0), {"rotations": "quarter4"}, "exchanges the axes 0 and 1"),
        ((32, 4, 1), (1.0, 1.0, 5.0), {"rotations": "quarter4"}, "whose largest part with equal sides has 0"),
    ],
)
def test_patches_that_cannot_be_turned_are_refused(patch, spacing, options, message):
    data = DataSpec(labels={0: "b", 1: "a"}, modality=("MR",), spacing_mm=spacing, patch=patch, view="axial")
    with pytest.raises(ConfigError, match=f"method rotation: rotations .*{message}"):
        build("rotation", NetworkFactory(NetworkSpec(name="vnet", width=4), data), **options)


@pytest.mark.parametrize(
    ("patch", "name", "exchanged", "side"),
    [
        ((32, 24), "quarter4", (0, 1), 24),
        ((32, 4), "half2", (), 0),
        ((32, 24, 16), "axis10", (0, 1, 2), 16),
        ((4, 32, 24), "axial4", (1, 2), 24),  # the first axis is too short to be exchanged
        ((4, 32, 1), "half4", (), 0),
    ],
)
def test_auto_exchanges_no_axis_that_is_too_short(patch, name, exchanged, side):
    network = factory(len(patch)).encoder_decoder()
    equal = (1.0,) * len(patch)
    copies = plan_copies("auto", network, patch, equal, equal)
    assert (copies.rotations.name, copies.rotations.exchanged, copies.side) == (name, exchanged, side)


# Does it learn?


def learn(images: Tensor, steps: int) -> float:
    """Share of rotations that are found in the last quarter of a short training on images of one channel."""
    torch.manual_seed(0)
    method = build("rotation", factory(2, channels=1))
    optimizer = torch.optim.AdamW(method.parameters(), lr=0.005)
    shares = []
    for _ in range(steps):
        chosen = torch.randint(len(images), (8,))
        loss = method({"all": {"image": images[chosen]}}, CLOCK)["rotation"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        shares.append(method.watched()["rotations found"].item())
    last = shares[-steps // 4 :]
    return sum(last) / len(last)


def test_it_learns_which_way_up_a_phantom_is():
    torch.manual_seed(0)
    shade = torch.linspace(-1, 1, 32)[:, None].expand(32, 24)
    images = shade + 0.3 * torch.randn(64, 1, 32, 24)
    assert learn(images, 40) > 0.95


def test_new_noise_has_no_upright():
    torch.manual_seed(0)
    method = build("rotation", factory(2, channels=1))
    optimizer = torch.optim.AdamW(method.parameters(), lr=0.005)
    found = []
    for _ in range(40):
        loss = method({"all": {"image": torch.randn(8, 1, 32, 24)}}, CLOCK)["rotation"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(method.watched()["rotations found"].item())
    share = sum(found[20:]) / 20
    deviation = math.sqrt(0.25 * 0.75 / (20 * 32))
    assert abs(share - 0.25) < 3 * deviation
