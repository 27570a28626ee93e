"""Group-WSSS against the worked numbers of its authors' code, and the exact properties of its parts."""

from __future__ import annotations

import json
import math

import nibabel as nib
import numpy as np
import pytest
import torch
from given_networks import factory
from tagged import write_tagged
from torch import nn

from medseg import methods
from medseg.bundle.bundle import open_bundle
from medseg.config.pipeline import Pipeline
from medseg.errors import ConfigError, MedsegError
from medseg.manifest.manifest import Manifest
from medseg.method import IGNORE, Clock, Predictions, number_of_case
from medseg.methods.group_wsss import GroupWSSS, SaliencyColouring
from medseg.ops.tags import group_graph
from medseg.ops.tags.class_activation import relative_maps
from medseg.ops.tags.group_attention import GroupMaps
from medseg.ops.tags.group_graph import CoAttention, ConvGRU, GraphDropout, GroupGraph
from medseg.ops.tags.refinement import pamr
from medseg.portable.networks.tag_networks import enlarge
from medseg.workflows.train.checks.streams import describe_tag_groups
from medseg.workflows.train.run import train

pytestmark = pytest.mark.usefixtures("undrawn")

CLOCK = Clock(50, 100)


def identity(convolution: nn.Module) -> None:
    nn.init.zeros_(convolution.bias)
    nn.init.zeros_(convolution.weight)
    for channel in range(len(convolution.weight)):
        convolution.weight.data[channel, channel] = 1


def plain_attention() -> CoAttention:
    """Two channels for queries and keys too, both the states themselves, and a gate of 0.5."""
    attention = CoAttention(2, 4)
    attention.query, attention.key = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)
    attention.gate = nn.Conv2d(2, 1, 1, bias=False)
    identity(attention.query)
    identity(attention.key)
    nn.init.zeros_(attention.gate.weight)
    return attention


OWN = torch.tensor([[1.0, 0.0], [0.0, 1.0]])[None, :, None]
OTHER = torch.tensor([[2.0, 0.0], [0.0, 4.0]])[None, :, None]
"""States `(1, 2, 1, 2)` of two positions."""


def test_a_message_is_the_worked_one():
    message = plain_attention()(OWN, OTHER)[0, :, 0]
    torch.testing.assert_close(message, torch.tensor([[0.880797, 0.017986], [0.238406, 1.964028]]), atol=1e-6, rtol=0)


def test_without_keys_a_message_is_half_the_mean():
    attention = plain_attention()
    nn.init.zeros_(attention.query.weight)
    torch.testing.assert_close(attention(OWN, OTHER)[0, :, 0], torch.tensor([[0.5, 0.5], [1.0, 1.0]]))


def slow_message(attention: CoAttention, own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """By the equation, with the whole matrix of scores."""
    a, b = attention.query(own).flatten(2), attention.key(other).flatten(2)
    scores = torch.einsum("bkp,bkq->bpq", a, b).softmax(2)
    message = torch.einsum("bcq,bpq->bcp", other.flatten(2), scores).reshape(own.shape)
    return attention.gate(message).sigmoid() * message


@pytest.mark.parametrize("dims", [2, 3])
def test_messages_between_images_of_two_sizes_are_those_of_the_equation(dims):
    torch.manual_seed(0)
    attention = CoAttention(dims, 5)
    own, other = torch.randn(2, 5, *(4, 3, 2)[:dims]), torch.randn(2, 5, *(3, 6, 4)[:dims])
    torch.testing.assert_close(attention(own, other), slow_message(attention, own, other), atol=1e-5, rtol=0)


def test_where_things_are_in_the_other_image_is_all_one():
    torch.manual_seed(0)
    attention = CoAttention(2, 4)
    own, other = torch.randn(1, 4, 1, 6), torch.randn(1, 4, 1, 6)
    order = torch.randperm(6)
    message = attention(own, other)
    torch.testing.assert_close(attention(own, other[..., order]), message)
    torch.testing.assert_close(attention(own[..., order], other), message[..., order])
    constant = torch.ones(1, 4, 1, 6)
    told = attention(own, constant)
    torch.testing.assert_close(told, attention.gate(constant).sigmoid() * constant)


def test_one_channel_has_one_key_and_half_precision_makes_no_infinity():
    assert CoAttention(2, 1).query.weight.shape == (1, 1, 1, 1)
    attention = CoAttention(2, 2)
    large = torch.full((1, 2, 2, 2), 300.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert bool(torch.isfinite(attention(large, large)).all())


def test_large_feature_maps_are_sent_as_means(monkeypatch):
    monkeypatch.setattr(group_graph, "MOST_POSITIONS", 8)
    state = torch.arange(16.0).view(1, 1, 4, 4)
    assert group_graph.shrink(state, 8)[0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert group_graph.shrink(state, 16) is state
    assert group_graph.shrink(torch.zeros(1, 1, 4, 4, 4), 8).shape == (1, 1, 2, 2, 2)
    assert CoAttention(2, 1)(state, state).shape == state.shape


def make_gru() -> ConvGRU:
    gru = ConvGRU(2, 1)
    for parameter in gru.parameters():
        nn.init.zeros_(parameter)
    return gru


def test_a_memory_without_weights_halves_its_state():
    gru, state = make_gru(), torch.tensor([4.0, -2.0]).view(1, 1, 1, 2)
    for expected in ([2, -1], [1, -0.5], [0.5, -0.25]):
        state = gru(torch.zeros_like(state), state)
        assert state.flatten().tolist() == expected


def test_a_closed_memory_keeps_its_state_and_none_grows_beyond_one():
    gru, state = make_gru(), torch.tensor([4.0, -2.0]).view(1, 1, 1, 2)
    nn.init.constant_(gru.update.bias, -100)
    assert torch.equal(gru(torch.ones_like(state), state), state)
    torch.manual_seed(0)
    gru = ConvGRU(2, 3)
    message, state = 50 * torch.randn(2, 3, 4, 4), 2 * torch.randn(2, 3, 4, 4)
    assert bool((gru(message, state).abs() <= state.abs().clamp_min(1) + 1e-6).all())


X = torch.tensor([[1.0, 2.0, 4.0], [1.0, 2.0, 2.0]]).view(1, 2, 1, 3)


def test_graph_dropout_is_the_worked_one():
    torch.testing.assert_close(GraphDropout(rate=1)(X)[0, :, 0], torch.tensor([[1.0, 2, 2], [1, 2, 1]]))
    expected = torch.tensor([[0.865529, 1.880797, 3.905148], [0.865529, 1.880797, 1.952574]])
    torch.testing.assert_close(GraphDropout(rate=0)(X)[0, :, 0], expected, atol=1e-6, rtol=0)


def test_graph_dropout_is_drawn_for_each_node():
    torch.manual_seed(0)
    many = X.expand(20000, -1, -1, -1)
    factor = (GraphDropout()(many) / many).mean(0)[0, 0]
    assert factor[2] == pytest.approx(0.595257, abs=0.005)
    assert factor[0] == pytest.approx(0.973106, abs=0.002)


def test_graph_dropout_drops_nothing_where_all_is_negative_and_rests_in_evaluation():
    assert torch.equal(GraphDropout(rate=1)(-X), -X)
    assert torch.equal(GraphDropout(rate=1)(0 * X), 0 * X)
    assert torch.equal(GraphDropout(rate=1).eval()(X), X)
    assert torch.equal(GraphDropout(rate=1, strength="off")(X), X)
    mixed = torch.tensor([[3.0, 1.0], [-9.0, -9.0]]).view(1, 2, 1, 2)
    assert torch.equal(GraphDropout(rate=1)(mixed), mixed)
    assert GraphDropout(rate=1, strength="positive")(mixed)[0, :, 0].tolist() == [[1.5, 1], [-4.5, -9]]
    with pytest.raises(ValueError, match="rate of the graph dropout is 2; accepted is 0 to 1"):
        GraphDropout(rate=2)


def make_graph(dims: int = 2, **options) -> GroupGraph:
    torch.manual_seed(0)
    return GroupGraph(dims, 4, **options).eval()


@pytest.mark.parametrize("dims", [2, 3])
def test_images_that_are_the_same_stay_the_same(dims):
    state = torch.randn(1, 4, *(4, 4, 4)[:dims]).expand(3, *[-1] * (dims + 1))
    told = make_graph(dims)(state)
    assert not torch.equal(told[0], state[0])
    assert torch.equal(told[0], told[1])
    assert torch.equal(told[0], told[2])


def test_the_order_of_images_matters_to_the_concatenation_alone():
    states, order = torch.randn(3, 4, 5, 5), [2, 0, 1]
    mean, concat = make_graph(), make_graph(aggregate="concat")
    torch.testing.assert_close(mean(states[order]), mean(states)[order])
    assert not torch.allclose(concat(states[order]), concat(states)[order], atol=1e-4)


def test_without_rounds_or_others_states_stay():
    states = torch.randn(6, 4, 5, 5)
    assert torch.equal(make_graph(rounds=0)(states), states)
    assert torch.equal(make_graph(group_size=1)(states), states)
    assert make_graph(group_size=2)(states).shape == states.shape
    for wrong in (states[:4], states[:0]):
        with pytest.raises(ValueError, match="are no groups of 3"):
            make_graph()(wrong)


def test_groups_do_not_know_of_each_other():
    graph, states = make_graph(), torch.randn(6, 4, 5, 5)
    changed = torch.cat([states[:3], torch.randn(3, 4, 5, 5)])
    assert torch.equal(graph(states)[:3], graph(changed)[:3])


def make_method(dims: int = 2, **options) -> GroupWSSS:
    torch.manual_seed(0)
    return GroupWSSS(factory(dims, channels=1), **options)


def images(count: int = 3, dims: int = 2) -> torch.Tensor:
    return torch.randn(count, 1, *(32, 16, 8)[:dims], generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("rounds", [0, 1])
def test_the_others_pixels_are_seen_with_rounds_and_not_without(rounds):
    method = make_method(rounds=rounds, node="features", node_channels=8).eval()
    image = images().requires_grad_()
    states = method.graph(method.nodes(image))
    method.nodes.classify(states)[0].sum().backward()
    assert bool(image.grad[0].any())
    assert bool(image.grad[1].any()) == bool(rounds)


@pytest.mark.parametrize("node", ["classes", "features"])
def test_the_loss_of_logits_of_zero_is_the_worked_one(node):
    method = make_method(node=node, dropout="off")
    last = method.nodes.readout if node == "features" else method.nodes.embedding[-1]
    for parameter in (*last.parameters(), *method.graph.parameters()):
        nn.init.zeros_(parameter)
    tags = torch.tensor([[1, 0], [1, 1], [0, 0]], dtype=torch.uint8)
    terms = method({"weak": {"image": images(), "tags": tags, "case": torch.arange(len(tags))}}, CLOCK)
    assert sum(terms.values()).item() == pytest.approx(0.485203, abs=1e-6)
    assert sum(terms.values()).item() == pytest.approx((0.4 * 3 + 3) * math.log(2) / 6)


def test_how_sure_it_is_of_what_is_there_is_watched():
    method = make_method(rounds=0)
    tags = torch.tensor([[1, 0], [0, 1], [255, 0]], dtype=torch.uint8)
    batch = {"weak": {"image": images(), "tags": tags, "case": torch.arange(3)}}
    method(batch, CLOCK)
    logits = method.nodes.classify(method.nodes(images())).flatten(2).mean(2)
    sure = (logits[0, 0].sigmoid() + logits[1, 1].sigmoid()) / 2
    torch.testing.assert_close(method.watched()["present"], (0.9 * 0.5 + 0.1 * sure).expand(2))
    batch["weak"]["tags"].zero_()
    method(batch, CLOCK)
    torch.testing.assert_close(method.watched()["present"], (0.9 * 0.5 + 0.1 * sure).expand(2))


def test_alone_until_it_is_time():
    method = make_method(alone=0.6, dropout="off")
    batch = {"weak": {"image": images(), "tags": torch.ones(3, 2, dtype=torch.uint8), "case": torch.arange(3)}}
    terms = method(batch, Clock(59, 100))
    assert terms["single"].item() == pytest.approx(0.4 * terms["group"].item())
    terms = method(batch, Clock(60, 100))
    assert terms["single"].item() != pytest.approx(0.4 * terms["group"].item())


@pytest.mark.parametrize(("dims", "group_size"), [(2, 1), (2, 3), (2, 4), (3, 3)])
def test_attention_is_that_of_groups_with_images_of_the_class(dims, group_size):
    method = make_method(dims, group_size=group_size, node="features", node_channels=8, partners=4)
    count = 2 * group_size
    tags = torch.zeros(count, 2, dtype=torch.uint8)
    tags[:, 0] = 1
    method({"weak": {"image": images(count, dims), "tags": tags, "case": torch.arange(len(tags))}}, CLOCK)
    image = 3 * images(1, dims)
    maps = method.eval().maps().eval()
    with torch.no_grad():
        found = maps(image)
        states = method.nodes(image)
        before = method.nodes.classify(states)[0]
        partners = method.nodes(method.bank.images[0][method.bank.filled[0]])
        after = before[0]
        if group_size > 1:
            groups = [
                partners[i : i + group_size - 1]
                for i in range(0, len(partners) // (group_size - 1) * (group_size - 1), group_size - 1)
            ]
            told = [method.nodes.classify(method.graph(torch.cat([states, group])))[0, 0] for group in groups]
            after = torch.stack(told).mean(0)
        expected = enlarge(torch.stack([(before[0] + after) / 2, before[1]]).relu()[None], image.shape[2:])
    torch.testing.assert_close(found, expected)
    assert found.shape == (1, 2, *image.shape[2:])


def test_the_largest_attention_of_several_times_is_kept():
    method = make_method(snapshots=2, dropout="off")
    batch = {"weak": {"image": images(), "tags": torch.ones(3, 2, dtype=torch.uint8), "case": torch.arange(3)}}
    said = []
    for step in range(4):
        method(batch, Clock(step, 4))
        for parameter in method.nodes.embedding.parameters():
            parameter.data.normal_(generator=torch.Generator().manual_seed(step))
        method.after_step(Clock(step, 4))
        with torch.no_grad():
            said.append(relative_maps(method._attention().eval()(images())))
    found = method.maps()(images())
    torch.testing.assert_close(found, torch.maximum(said[1], said[3]))
    assert not torch.equal(said[1], said[3])


def test_refined_attention_ends_at_edges():
    method = make_method(refine=3).eval()
    image = images()
    with torch.no_grad():
        plain = make_method().eval().maps().eval()(image)
        torch.testing.assert_close(method.maps().eval()(image), pamr(image, plain, iterations=3))


def test_partners_change_the_attention_and_travel_with_the_maps():
    method = make_method(node="features", node_channels=8, convolutions=0)
    tags = torch.ones(3, 2, dtype=torch.uint8)
    method({"weak": {"image": images(), "tags": tags, "case": torch.arange(len(tags))}}, CLOCK)
    image = 3 * images(1)
    other = make_method(node="features", node_channels=8, convolutions=0)
    other.maps().load_state_dict(method.maps().state_dict())
    with torch.no_grad():
        found = method.eval().maps().eval()(image)
        assert torch.equal(other.eval().maps().eval()(image), found)
        method.bank.images.mul_(1000)
        assert not torch.allclose(method.maps().eval()(image), found)


SALIENCY = torch.tensor([0, 255, 255, 128, 0, 40]) / 255


@pytest.mark.parametrize("at_five", [0.95, 0.85])
def test_a_pseudo_mask_is_the_worked_one(at_five):
    attention = torch.tensor([0, 1, 0.5, 0.4, at_five, 0.1])
    rule = SaliencyColouring(21)
    assert rule.colour(SALIENCY, {15: attention}).tolist() == [0, 15, 15, 255, 255, 255]


def test_soft_saliency_is_background_below_the_threshold():
    """The fourth voxel's scores are 0.5 and 0.4, the last one's 0.84 and 0.1; its saliency is 0.16."""
    attention = torch.tensor([0, 1, 0.5, 0.4, 0.7, 0.1])
    labels = [SaliencyColouring(21, hot_saliency=hot).colour(SALIENCY, {15: attention}).tolist() for hot in (0.4, 0.55)]
    assert labels == [[0, 15, 15, 255, 0, 0], [0, 15, 15, 0, 0, 0]]


def test_where_a_class_wins_that_nobody_looked_for_nothing_is_learnt():
    """Scores of background, 1 and 2: (1, 0, 0), (0, .5, 1), (0, 1, .25)."""
    saliency = torch.tensor([0.0, 1.0, 1.0]).view(3, 1, 1)
    maps = torch.tensor([[0.0, 0.5, 1.0], [0.0, 1.0, 0.25]]).view(2, 3, 1, 1)
    rule = SaliencyColouring(3)
    assert rule.label(case({1: True, 2: False}, maps, saliency), {}, 1).flatten().tolist() == [0, 1, 1]
    assert rule.label(case({1: True}, maps, saliency), {}, 1).flatten().tolist() == [0, IGNORE, 1]


def test_an_image_with_hardly_any_foreground_has_no_mask():
    saliency, attention = torch.zeros(1000), torch.zeros(1000)
    saliency[:9], attention[:9] = 1, 1
    rule = SaliencyColouring(3)
    assert bool((rule.colour(saliency, {1: attention}) == IGNORE).all())
    saliency[9], attention[9] = 1, 1
    assert int((rule.colour(saliency, {1: attention}) == 1).sum()) == 10


def case(tags, maps=None, saliency=None) -> Predictions:
    maps = torch.zeros(2, 4, 4, 1) if maps is None else maps
    saliency = torch.zeros(4, 4, 1) if saliency is None else saliency
    return Predictions([], [], tags=tags, maps=[maps.half()], inputs={"saliency": saliency})


def test_classes_that_are_not_there_are_in_no_mask_and_dead_maps_do_no_harm():
    rule, saliency = SaliencyColouring(3), torch.zeros(4, 4, 1)
    saliency[:2] = 1
    maps = torch.rand(2, 4, 4, 1)
    maps[1] *= 9
    label = rule.label(case({1: True, 2: False}, maps, saliency), {}, 1)
    assert set(label.unique().tolist()) <= {0, 1, 255}
    assert 1 in label
    assert rule.label(case({1: True}, None, saliency), {}, 1) is None, "a map of zeros finds nothing"
    assert rule.label(case({1: False, 2: False}, maps, saliency), {}, 1).unique().tolist() == [0]
    assert rule.label(case({1: False}, maps, saliency), {}, 1) is None
    assert rule.label(case(None, maps, saliency), {}, 1) is None


def test_the_size_of_groups_is_an_option():
    assert methods.find_streams("group_wsss", {})[0].batch_multiple == 3
    assert methods.find_streams("group_wsss", {"group_size": 4})[0].batch_multiple == 4
    assert make_method(group_size=4).streams[0].batch_multiple == 4
    refused = {
        "group_size is 0; accepted is at least 1": {"group_size": 0},
        "group_size is 2; accepted is at least 3": {"group_size": 2, "neighbor": True, "contrast": True},
        "group_size of method group_wsss is 'many'": {"group_size": "many"},
        "method group_wsss has no option 'size'": {"size": 3},
    }
    for message, options in refused.items():
        with pytest.raises(ConfigError, match=message):
            methods.find_streams("group_wsss", options)


SMALL = ["stages.0.network.width=4", "stages.1.network.width=4", "data.patch=[16,16,1]", "data.view=axial",
         "stages.0.schedule.iterations=2", "stages.1.schedule.iterations=2", "stages.0.schedule.workers=0",
         "stages.1.schedule.workers=0", "stages.0.method.options.node_channels=4"]  # fmt: skip


def refuse(folder, manifest, *overrides) -> str:
    """What is said when a run is planned."""
    with pytest.raises(MedsegError) as found:
        train("group_wsss", manifest, folder / "run", overrides=[*SMALL, *overrides])
    assert not (folder / "run").exists()
    return str(found.value)


def with_first(manifest, **changes):
    """The manifest, whose first case is another; None: it lacks this."""
    content = json.loads(manifest.read_text())
    first = {**content["training"][0], **changes}
    content["training"][0] = {key: value for key, value in first.items() if value is not None}
    path = manifest.with_name(f"other_{'_'.join(changes)}.json")
    path.write_text(json.dumps(content))
    return path


def test_a_set_without_a_background_and_other_settings_are_refused():
    networks = factory(2)
    networks.has_background = False
    with pytest.raises(ConfigError, match="saliency tells classes from the background, and the data set has none"):
        methods.build("group_wsss", networks)
    refused = {
        "rounds is -1": {"rounds": -1},
        "snapshots 0: must": {"snapshots": 0},
        "rate of the": {"dropout_rate": 2.0},
    }
    for message, options in refused.items():
        with pytest.raises(ConfigError, match=message):
            methods.build("group_wsss", factory(2), **options)


def test_what_cannot_be_grouped_or_coloured_is_refused_before_anything_is_trained(tmp_path):
    manifest = write_tagged(tmp_path / "data")
    size = "stages.0.method.options.group_size"
    assert "makes groups of 4 different weak cases, and there are 3" in refuse(tmp_path, manifest, f"{size}=4")
    assert "no two do" in refuse(tmp_path, with_first(manifest, tags=[]), f"{size}=2")
    message = refuse(tmp_path, with_first(manifest, tags=["ball"]))
    assert "the tags of box: in 0 images present, in 3 absent" in message
    message = refuse(tmp_path, with_first(manifest, maps=None))
    assert "rule group_wsss needs a map called 'saliency'" in message
    assert "case0" in message
    message = refuse(tmp_path, manifest, "stages.0.schedule.batch.weak=4")
    assert "group_wsss makes groups of 3 images" in message
    assert "stride 1: the network's finest feature map has" in refuse(
        tmp_path, manifest, "stages.0.method.options.stride=1"
    )


def test_saliency_of_8_bits_is_the_same_and_any_other_range_is_refused():
    rule, saliency = SaliencyColouring(3), torch.zeros(4, 4, 1)
    saliency[:2], saliency[2] = 1, 0.2
    maps = torch.rand(2, 4, 4, 1)
    label = rule.label(case({1: True}, maps, saliency), {}, 1)
    assert torch.equal(label, rule.label(case({1: True}, maps, saliency * 255), {}, 1))
    with pytest.raises(MedsegError, match="saliency from 0 to 1000; accepted are 0 to 1, or 0 to 255 in 8 bits"):
        rule.label(case({1: True}, maps, saliency * 1000), {}, 1)


@pytest.mark.parametrize(
    ("options", "said"), [({}, "3 images of the same tags; 3 of 3 cases"), ({"group_size": 1}, "")]
)
def test_the_plan_says_how_many_cases_have_tags_of_their_own(tmp_path, options, said):
    stage = Pipeline(name="one", stages=({"method": {"name": "group_wsss", "options": options}},)).stages[0]
    found = describe_tag_groups(stage, Manifest.load(write_tagged(tmp_path)))
    assert found.startswith(said)
    assert bool(found) == bool(said)


def test_from_tags_and_saliency_to_a_segmenter_of_slices(tmp_path, monkeypatch):
    """Each case of which maps are made is told to those that keep partners, by the number that these have of it."""
    told = []

    def see_case(maps, number):
        told.append((number, set(maps.bank.cases.flatten().tolist()) - {-1}))

    monkeypatch.setattr(GroupMaps, "see_case", see_case)
    manifest = write_tagged(tmp_path / "data")
    options = "{node: features, node_channels: 4, group_size: 2, neighbor: true}"
    run = train(
        "group_wsss", manifest, tmp_path / "run", device="cpu",
        overrides=[*SMALL, f"stages.0.method.options={options}", "stages.0.schedule.batch.weak=4"],
    )  # fmt: skip
    numbers = [number_of_case(f"case{index}") for index in range(3)]
    assert {number for number, _ in told} == set(numbers)
    assert all(kept and kept <= set(numbers[:2]) for _, kept in told), "the third case has no structure"
    made = sorted((run / "stage0").glob("**/pseudo/*.nii.gz"))
    assert made, "the case with no structure is labelled at least"
    for path in made:
        values = set(np.unique(np.asarray(nib.load(path).dataobj)).tolist())
        assert values <= {0, 1, 2, 255}
    assert open_bundle(run / "bundle").network is not None
