"""Options of the methods that learn from tags, outside of what they may be: refused in one line, by name."""

from __future__ import annotations

import pytest
import torch
from given_networks import factory

from medseg import methods
from medseg.errors import ConfigError
from medseg.method import Frozen

ONE, SHARE, ZERO = "must be at least 1", "must be at least 0 and at most 1", "must be at least 0"


def refusal(name: str, options: dict) -> str:
    torch.manual_seed(0)
    previous = Frozen(factory(2, 2).segmenter(), ("background", "class2"), independent=True)
    networks = factory(2, previous=previous, start=True)
    with pytest.raises(ConfigError) as caught:
        methods.build(name, networks, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("alone", 3.0, f"alone 3: {SHARE}"),
        ("alone", -0.5, f"alone -0.5: {SHARE}"),
        ("convolutions", -1, f"convolutions -1: {ZERO}"),
        ("single", -0.1, f"single -0.1: {ZERO}"),
        ("refine", -1, f"refine -1: {ZERO}"),
        ("node_channels", 0, f"node_channels 0: {ONE}"),
        ("stride", 0, f"stride 0: {ONE}"),
        ("partners", 0, f"partners 0: {ONE}"),
        ("snapshots", 0, f"snapshots 0: {ONE}"),
        ("rounds", -1, "rounds is -1; accepted is at least 0"),
        ("dropout_rate", 2.0, "rate of the graph dropout is 2; accepted is 0 to 1"),
        ("single", float("nan"), f"single nan: {ZERO}"),
    ],
)
def test_of_group_wsss(option, value, said):
    assert refusal("group_wsss", {"node": "features", option: value}) == f"method group_wsss: {said}"


@pytest.mark.parametrize("option", ["conflict", "hot_attention", "hot_saliency", "least_attention", "least_foreground"])
@pytest.mark.parametrize("value", [-3.0, 9.0])
def test_of_the_rule_of_group_wsss(option, value):
    with pytest.raises(ConfigError) as caught:
        methods.build_rule("group_wsss", 3, **{option: value})
    assert str(caught.value) == f"rule group_wsss: {option} {value:g}: {SHARE}"


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("dilations", [0], "dilations [0]: one or more numbers from 1 on"),
        ("dilations", [], "dilations []: one or more numbers from 1 on"),
        ("channels", 0, f"channels 0: {ONE}"),
        ("stride", 0, f"stride 0: {ONE}"),
        ("share", 5.0, f"share 5: {SHARE}"),
        ("background_share", -1.0, f"background_share -1: {SHARE}"),
        ("least", -3.0, f"least -3: {SHARE}"),
        ("iterations", -2, f"iterations -2: {ZERO}"),
        ("classification", -1.0, f"classification -1: {ZERO}"),
        ("localization", -1.0, f"localization -1: {ZERO}"),
        ("distillation", -1.0, f"distillation -1: {ZERO}"),
        ("self_training", -1.0, f"self_training -1: {ZERO}"),
        ("segmentation", -1.0, f"segmentation -1: {ZERO}"),
        ("alpha", -0.1, "alpha -0.1: accepted is 0 (soft) to 1 (hard)"),
        ("warmup", 1.0, "warmup 1: accepted is a fraction of the run, 0 or more and below 1"),
    ],
)
def test_of_wilson(option, value, said):
    assert refusal("wilson", {option: value}) == f"method wilson: {said}"


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("stride", 0, f"stride 0: {ONE}"),
        ("snapshots", 0, f"snapshots 0: {ONE}"),
        ("dropout", 1.0, "dropout 1: must be at least 0 and less than 1"),
        ("dropout", -0.5, "dropout -0.5: must be at least 0 and less than 1"),
    ],
)
def test_of_the_tag_classifier(option, value, said):
    assert refusal("tag_classifier", {option: value}) == f"method tag_classifier: {said}"
