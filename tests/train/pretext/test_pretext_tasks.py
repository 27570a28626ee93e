"""Inpainting and colorisation, the tasks that need no label, against values worked out by hand."""

from __future__ import annotations

import pytest
import torch
from given_networks import ByChannel, factory

from medseg import methods
from medseg.config.pipeline import NetworkSpec
from medseg.errors import ConfigError
from medseg.method import Clock, Frozen
from medseg.networks.factory import NetworkFactory
from medseg.networks.transfer import named_tensors
from medseg.ops.contact_sheet import contact_sheet, middle_slices
from medseg.ops.pretext.hidden_boxes import hide_boxes, restoration_loss

CLOCK = Clock(0, 10)


@pytest.mark.parametrize("shape", [(16, 24), (8, 12, 16)])
def test_boxes_are_hidden_under_the_mean_of_their_channel(shape):
    torch.manual_seed(0)
    images = torch.randn(3, 2, *shape)
    seen, hidden = hide_boxes(images, 3, 0.1)
    shares = hidden.flatten(1).float().mean(1)
    assert bool((shares > 0.05).all())
    assert bool((shares < 0.4).all())
    assert torch.equal(seen[~hidden.expand_as(seen)], images[~hidden.expand_as(images)])
    for image, of_image, where in zip(images, seen, hidden, strict=True):
        for channel in range(2):
            found = of_image[channel][where[0]]
            assert found.tolist() == pytest.approx([image[channel].mean().item()] * len(found), abs=1e-6)


def test_a_contact_sheet_has_slices_in_rows_from_black_to_white():
    volumes = torch.tensor([[0.0, 1.0, 9.0], [2.0, 4.0, 9.0]]).reshape(2, 1, 1, 1, 3)
    slices = middle_slices(volumes, 5)
    assert slices.flatten().tolist() == [1.0, 4.0]  # of three the middle one
    sheet = contact_sheet([slices, slices[:1] + 1])
    assert sheet.shape == (1, 2, 2)
    assert sheet.flatten().tolist() == pytest.approx([0, 1, 1 / 3, 0])  # what is filled up is black


def test_pictures_show_what_is_hidden_restored_and_true():
    torch.manual_seed(0)
    method = methods.build("inpainting", factory(2, channels=1))
    assert method.pictures() == {}
    image = torch.randn(5, 1, 32, 24)
    method({"all": {"image": image}}, CLOCK)
    sheet = method.pictures()["inpainting"]
    assert sheet.shape == (1, 3 * 24, 4 * 32)
    true, seen = sheet[0, 48:, :32].mT, sheet[0, :24, :32].mT  # x is drawn to the right, y downwards
    low, high = true[0, 0], image[0, 0, 0, 0]
    assert 0.1 < (true != seen).float().mean() < 0.5
    scale = (true - low) / (image[0, 0] - high)
    assert scale[1:].std() < 1e-4  # a line from the image's values to the picture's


def test_only_what_was_hidden_counts():
    images = torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]])
    restored = torch.tensor([[[[9.0, 2.5, 2.0, 9.0]]]])
    hidden = torch.tensor([[[[False, True, True, False]]]])
    assert restoration_loss(restored, images, hidden).item() == pytest.approx(0.75)
    assert restoration_loss(restored, images, ~hidden & hidden).item() == 0


def test_what_lies_outside_of_an_image_is_not_asked_for():
    torch.manual_seed(0)
    image = torch.randn(2, 3, 32, 24)
    inside = torch.ones(2, 1, 32, 24, dtype=torch.bool)
    inside[:, :, :20] = False
    method = methods.build("colorization", factory(2, channels=3)).eval()
    grey, target = method.split(image)
    logits = method.head(method.network(grey)).reshape(2, 16, 2, 32, 24)
    each = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    found = method({"all": {"image": image, "inside": inside}}, CLOCK)["colorization"]
    assert found.item() == pytest.approx(each[:, :, 20:].mean().item(), rel=1e-5)
    method = methods.build("inpainting", factory(2, channels=3)).eval()
    losses = []
    for shown in (inside, torch.zeros_like(inside)):
        torch.manual_seed(1)
        losses.append(method({"all": {"image": image, "inside": shown}}, CLOCK)["inpainting"].item())
    torch.manual_seed(1)
    seen, hidden = hide_boxes(image, 8, 0.05)
    difference = (method.head(method.network(seen)) - image).abs()
    assert losses[0] == pytest.approx(difference[(hidden & inside).expand_as(difference)].mean().item(), rel=1e-5)
    assert losses[1] == 0


def test_colour_is_what_is_left_beside_grey():
    method = methods.build("colorization", factory(2, channels=3), bins=4, limit=1.0)
    image = torch.tensor([0.9, 0.0, 0.0]).reshape(1, 3, 1, 1).expand(1, 3, 2, 2)
    grey, target = method.split(image)
    assert grey.flatten().tolist() == pytest.approx([0.3] * 12)
    # 0.6 from grey is in the last of [-1, -0.5), [-0.5, 0), [0, 0.5), [0.5, 1); -0.3 in the second
    assert target[0, :, 0, 0].tolist() == [3, 1]
    far = method.split(image * 100)[1]
    assert far[0, :, 0, 0].tolist() == [3, 0]


def test_of_several_slices_the_middle_one_has_its_colour_told():
    networks = ByChannel(3, 2, 6)
    networks.image_channels = 2
    networks.head = lambda of, out: torch.nn.Conv2d(of, out, 1)
    method = methods.build("colorization", networks, bins=2, limit=1.0)
    image = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0, 0.0]).reshape(1, 6, 1, 1)
    grey, target = method.split(image)
    assert grey.flatten().tolist() == [0.0, 0.5, 0.0, 0.0, 0.5, 0.0]
    assert target.flatten().tolist() == [1]
    assert method.split(-image)[1].flatten().tolist() == [0]


def test_colours_that_are_known_cost_nothing_and_all_alike_cost_log_of_the_bins():
    method = methods.build("colorization", factory(2, channels=3), bins=4)
    convolution = method.head.convolution
    torch.nn.init.zeros_(convolution.weight)
    torch.nn.init.zeros_(convolution.bias)
    batch = {"all": {"image": torch.randn(2, 3, 32, 24)}}
    assert method(batch, CLOCK)["colorization"].item() == pytest.approx(1.386294, rel=1e-5)


def test_grey_images_are_inpainted_instead():
    batch = {"all": {"image": torch.randn(2, 1, 32, 24)}}
    terms = []
    for name in ("colorization", "inpainting"):
        torch.manual_seed(0)
        method = methods.build(name, factory(2, channels=1))
        torch.manual_seed(1)
        terms.append(method(batch, CLOCK))
    assert list(terms[0]) == ["inpainting"]
    assert terms[0]["inpainting"].item() == terms[1]["inpainting"].item()


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("inpainting", {"boxes": 0}, "boxes is 0; accepted: 1 or more"),
        ("inpainting", {"share": 1.0}, "share is 1.0; accepted: a number between 0 and 1"),
        ("colorization", {"bins": 1}, "bins is 1; accepted: 2 or more"),
        ("colorization", {"limit": 0.0}, "limit is 0.0; accepted: a number above 0"),
    ],
)
def test_options_that_are_refused(name, options, said):
    with pytest.raises(ConfigError, match=said):
        methods.build(name, factory(2), **options)


@pytest.mark.parametrize("name", ["inpainting", "colorization"])
def test_the_network_of_a_classifier_of_images_says_nothing_of_pixels(name):
    images = factory(2).data.model_copy(update={"target": "images"})
    with pytest.raises(ConfigError, match=f"method {name}: .*data.target is images.*accepted with it are rotation"):
        methods.build(name, NetworkFactory(NetworkSpec(name="vnet", width=4), images))


@pytest.mark.parametrize("network", ["unet", "vnet"])
def test_networks_of_another_width_have_nothing_in_common(network):
    """Counters and slopes agree in all widths, and are no weights."""
    options = {"norm": "batch"}
    earlier = factory(2, name=network, options=options).encoder_decoder()
    wide = NetworkSpec(name=network, width=8, options=options)
    with pytest.raises(ConfigError, match=r"nothing in common .*: .*weight has the shape \[8, 2, 3, 3\] here and \[4"):
        NetworkFactory(wide, factory(2).data, previous=Frozen(earlier), start=True).segmenter()


@pytest.mark.parametrize("network", ["unet", "vnet"])
def test_features_of_a_pretext_task_do_not_become_classes(network):
    """The outputs of a network in halves are features, whatever their number: the next stage's classes are new."""
    torch.manual_seed(0)
    earlier = methods.build("inpainting", factory(2, name=network)).pretrained()
    with torch.no_grad():
        for tensor in earlier.parameters():
            tensor.fill_(7)
    networks = factory(2, classes=3, name=network, previous=Frozen(earlier), start=True)
    found = named_tensors(networks.segmenter())
    taken = {name for name, tensor in found.items() if tensor.is_floating_point() and bool((tensor == 7).all())}
    assert taken
    assert networks.copied[0].by_class == 0
    assert networks.copied[0].left
    assert not taken & set(networks.copied[0].left)
