"""The head of volumes whose channels lie last: the same numbers as its convolution, in the layout of the features."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medseg.portable.networks.encoder_decoder import Head
from medseg.portable.networks.pointwise import wants_product


@pytest.mark.parametrize("outputs", [1, 3, 14])
def test_head_of_volumes_is_its_convolution(outputs):
    torch.manual_seed(0)
    head = Head(3, 8, outputs)
    image, weights = torch.randn(2, 8, 5, 4, 3), torch.randn(2, outputs, 5, 4, 3)
    expected = head.convolution(image)
    expected_gradients = torch.autograd.grad((expected * weights).sum(), tuple(head.parameters()))
    last = image.contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    assert wants_product(last)
    assert not wants_product(image)
    result = head(last)
    assert result.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)
    of_image, *gradients = torch.autograd.grad((result * weights).sum(), (last, *head.parameters()))
    assert of_image.is_contiguous(memory_format=torch.channels_last_3d), "layers before it are slow in another layout"
    torch.testing.assert_close(of_image, gradient_by_hand(head.convolution.weight, weights))
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)


def gradient_by_hand(weight: Tensor, of_result: Tensor) -> Tensor:
    """What each channel of the features gets: the gradients of all outputs by their weights."""
    return torch.einsum("kc,bkxyz->bcxyz", weight.flatten(1), of_result)


def test_two_channels_by_hand():
    head = Head(3, 2, 2)
    with torch.no_grad():
        head.convolution.weight.copy_(torch.tensor([[1.0, 0.0], [1.0, -1.0]]).view(2, 2, 1, 1, 1))
        head.convolution.bias.copy_(torch.tensor([0.0, 10.0]))
    features = torch.tensor([[2.0, 5.0], [3.0, 7.0]]).view(1, 2, 2, 1, 1)
    assert head(features.contiguous(memory_format=torch.channels_last_3d)).flatten().tolist() == [2.0, 5.0, 9.0, 8.0]


def test_images_in_a_plane_stay_with_the_convolution():
    assert not wants_product(torch.ones(1, 2, 4, 4).contiguous(memory_format=torch.channels_last))
