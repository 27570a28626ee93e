"""Partners of an image whose attention is made: of other cases, each once, and fewer where there are no more."""

from __future__ import annotations

import pytest
import torch
from given_networks import factory
from torch import nn

from medseg.method import number_of_case
from medseg.methods.group_wsss import GroupWSSS
from medseg.ops.tags.group_attention import PartnerBank
from medseg.portable.networks.adapters import Planar
from medseg.portable.networks.tag_networks import enlarge
from medseg.workflows.train.self_training.labelling.predict_maps import _tell_case

ALONE, SHARED = 0, 1
"""Classes: of one case, and of all."""


def trained(**options) -> GroupWSSS:
    """After it saw four cases, numbers 10 to 13, of which the first alone has the first class."""
    torch.manual_seed(0)
    method = GroupWSSS(factory(2, channels=1), node="features", node_channels=8, **options)
    tags = torch.tensor([[1, 1], [0, 1], [0, 1], [0, 1]], dtype=torch.uint8)
    for parameter in method.nodes.readout.parameters():
        if parameter.ndim == 1:
            nn.init.constant_(parameter, 2)  # so that no map is cut at 0
    method._keep_partners(images(4), tags, torch.arange(10, 14))
    return method.eval()


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 1, 32, 16, generator=torch.Generator().manual_seed(1))


def attention(method: GroupWSSS, image: torch.Tensor, case: int | None) -> torch.Tensor:
    maps = method.maps().eval()
    _tell_case(maps, case)
    with torch.no_grad():
        return maps(image)


def expected(method: GroupWSSS, image: torch.Tensor, value: int, partners: list[int]) -> torch.Tensor:
    """The map of a class by one group of the image and these of the batch; of none by the image alone."""
    with torch.no_grad():
        states = method.nodes(torch.cat([image, images(4)[partners]]))
        before = method.nodes.classify(states)[0, value]
        after = method.nodes.classify(method.graph(states, 1 + len(partners)))[0, value]
        return enlarge(((before + after) / 2).relu()[None, None], image.shape[2:])[:, 0]


def test_the_single_image_of_a_class_is_no_partner_of_itself():
    method = trained()
    own = images(1)
    assert torch.equal(attention(method, own, 10)[:, ALONE], expected(method, own, ALONE, []))
    other = 3 * images(1)
    assert not torch.allclose(attention(method, other, 99)[:, ALONE], expected(method, other, ALONE, []))


@pytest.mark.parametrize("aggregate", ["mean", "concat"])
def test_with_fewer_partners_than_a_group_has_places_the_group_is_smaller(aggregate):
    """One partner for two places: it takes one of them."""
    method = trained(aggregate=aggregate)
    image = 3 * images(1)
    torch.testing.assert_close(attention(method, image, 99)[:, ALONE], expected(method, image, ALONE, [0]))


def test_partners_are_those_of_other_cases_each_once():
    """Four are kept: of a case among them three are left, one group; of no case four, two groups of two."""
    method = trained()
    image = images(2)[1:]
    torch.testing.assert_close(attention(method, image, 11)[:, SHARED], expected(method, image, SHARED, [0, 2]))
    with torch.no_grad():
        states, kept = method.nodes(image), method.nodes(images(4))
        before = method.nodes.classify(states)[0, SHARED]
        groups = [torch.cat([states, kept[:2]]), torch.cat([states, kept[2:]])]
        after = torch.stack([method.nodes.classify(method.graph(group))[0, SHARED] for group in groups]).mean(0)
        both = enlarge(((before + after) / 2).relu()[None, None], image.shape[2:])[:, 0]
    torch.testing.assert_close(attention(method, image, None)[:, SHARED], both)


def test_a_missing_member_says_nothing_in_a_concatenation():
    """As with states that send messages of zeros: the third part of the weights does not matter."""
    method = trained(aggregate="concat", group_size=4)
    states = torch.randn(2, 8, 4, 4)
    with torch.no_grad():
        before = method.graph(states, 2)
        method.graph.joined.weight[:, 8:] = 5
        assert torch.equal(method.graph(states, 2), before)


def test_a_bank_has_the_last_image_of_each_case():
    bank = PartnerBank(1, 2)
    for number, case in enumerate([7, 7, 8, 7, 9]):
        bank.keep(0, torch.full((1, 2, 2), float(number)), case)
    # 7 was the oldest, though its image was not: 9 took its place
    assert bank.cases.tolist() == [[9, 8]]
    assert bank.images[0, :, 0, 0, 0].tolist() == [4, 2]
    bank.keep(0, torch.full((1, 2, 2), 6.0), 9)
    assert bank.images[0, :, 0, 0, 0].tolist() == [6, 2]
    assert bank.filled.all()


def test_maps_of_earlier_versions_are_read_and_their_images_are_of_no_known_case():
    method = trained()
    state = method.maps().state_dict()
    assert state["bank.cases"].tolist() == [[10, -1, -1, -1], [10, 11, 12, 13]]
    del state["bank.cases"]
    other = trained()
    other.maps().load_state_dict(state)
    assert other.bank.cases.tolist() == [[-1] * 4] * 2
    image = images(1)
    assert torch.equal(attention(other, image, 10), attention(method, image, None))


def test_as_many_partners_are_kept_as_a_group_needs():
    assert trained(group_size=7).bank.slots == 6
    assert trained(group_size=2).bank.slots == 4


def test_parts_of_the_maps_are_told_whose_image_comes_wherever_they_are():
    method = trained(snapshots=2)
    maps = Planar(nn.Sequential(method.maps()), 2)
    _tell_case(maps, number_of_case("p7"))
    assert [kept._case for kept in method.snapshots.copies] == [number_of_case("p7")] * 2
    _tell_case(maps, None)
    assert [kept._case for kept in method.snapshots.copies] == [None] * 2


def test_the_number_of_a_case_is_the_same_everywhere_and_fits_a_tensor():
    """The first 63 bits of SHA-256 of "abc", ba7816bf8f01cfea..."""
    assert number_of_case("abc") == 0xBA7816BF8F01CFEA >> 1
    assert torch.tensor([number_of_case("abc")]).tolist() == [number_of_case("abc")]


def test_classes_with_fewer_cases_than_a_group_are_told_with_their_number():
    method = trained()
    assert method.cautions({}) == ()
    method.check_tags([{1: True, 2: True}, {1: False, 2: True}, {1: False, 2: True}, {1: False, 2: False}])
    (line,) = method.cautions({})
    assert line.startswith("fewer cases than the 3 images of a group are tagged with class1 (1): ")
