"""Pixel-adaptive mask refinement, against its equations and by hand."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from medseg.ops.tags.refinement import likeness, neighbour_offsets, pamr, to_grid


def slow_pamr(image: Tensor, maps: Tensor, dilations: tuple[int, ...]) -> Tensor:
    """One pass for one image, voxel by voxel: `image` `(Cin, *spatial)`, `maps` `(K, *spatial)`."""
    shape = image.shape[1:]
    refined = torch.zeros_like(maps)
    for place in itertools.product(*map(range, shape)):
        around, others = [], []
        for dilation in dilations:
            for steps in itertools.product((-dilation, 0, dilation), repeat=len(shape)):
                moved = [p + s for p, s in zip(place, steps, strict=True)]
                at = tuple(min(max(p, 0), size - 1) for p, size in zip(moved, shape, strict=True))
                around.append(image[(slice(None), *at)])
                if any(steps):
                    others.append(at)
        deviation = torch.stack(around).std(0, unbiased=True)
        centre = image[(slice(None), *place)]
        likes = [-((centre - image[(slice(None), *at)]).abs() / (1e-6 + 0.1 * deviation)).mean() for at in others]
        for weight, at in zip(torch.stack(likes).softmax(0), others, strict=True):
            refined[(slice(None), *place)] += weight * maps[(slice(None), *at)]
    return refined


@pytest.mark.parametrize("shape", [(7, 9), (3, 4, 5)])
def test_as_the_equations(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(2, 3, *shape, generator=generator)
    maps = torch.rand(2, 2, *shape, generator=generator)
    refined = pamr(image, maps, dilations=(1, 2), iterations=1)
    for number in range(2):
        expected = slow_pamr(image[number], maps[number], (1, 2))
        torch.testing.assert_close(refined[number], expected, atol=1e-5, rtol=1e-4)


def test_nothing_crosses_an_edge() -> None:
    image = torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 2)[None, None]
    maps = torch.tensor([[1.0, 0.0, 0.0, 0.0]] * 2)[None, None]
    refined = pamr(image, maps, dilations=(1,), iterations=1)
    torch.testing.assert_close(refined[0, 0], torch.tensor([[0.625, 0.6, 0.0, 0.0]] * 2), atol=1e-6, rtol=0)
    weights = likeness(image, neighbour_offsets(2, (1,)))
    across = weights[0, [2, 4, 7], 0, 1]  # the right neighbours of the second column; std 0.5, hence exp(-20) / 5
    torch.testing.assert_close(across, torch.full((3,), 4.122e-10), atol=0, rtol=1e-3)


@pytest.mark.parametrize("shape", [(32, 20), (9, 8, 7)])
def test_what_holds_for_any_image(shape: tuple[int, ...]) -> None:
    image = torch.randn(2, 1, *shape)
    weights = likeness(image, neighbour_offsets(len(shape)))
    torch.testing.assert_close(weights.sum(1), torch.ones(2, *shape), atol=1e-6, rtol=0)
    torch.testing.assert_close(pamr(image, torch.full((2, 1, *shape), 0.3)), torch.full((2, 1, *shape), 0.3))
    maps = torch.randn(2, 4, *shape).softmax(1)
    once = pamr(image, maps, iterations=1)
    torch.testing.assert_close(once.sum(1), torch.ones(2, *shape), atol=1e-6, rtol=0)
    refined = pamr(image, maps)
    torch.testing.assert_close(refined.sum(1), torch.ones(2, *shape), atol=1e-5, rtol=0)
    assert refined.min() >= maps.min()
    assert refined.max() <= maps.max()
    torch.testing.assert_close(pamr(5 * image + 2, maps), refined, atol=1e-3, rtol=0)
    assert torch.equal(pamr(image, maps, iterations=0), maps)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_constant_image_gives_even_weights_under_autocast(dtype: torch.dtype) -> None:
    image = torch.full((1, 1, 6, 6), 0.3)
    maps = torch.rand(1, 2, 6, 6)
    with torch.autocast("cpu", dtype=dtype):
        refined = pamr(image.to(dtype), maps.to(dtype))
    assert refined.dtype == torch.float32
    assert torch.isfinite(refined).all()
    weights = likeness(image, neighbour_offsets(2))
    assert torch.equal(weights, torch.full_like(weights, 1 / 40))


def test_neighbours() -> None:
    assert len(neighbour_offsets(2)) == 40
    assert len(neighbour_offsets(3)) == 78
    assert set(neighbour_offsets(2, (2,))) == set(itertools.product((-2, 0, 2), repeat=2)) - {(0, 0)}
    thick = neighbour_offsets(3, (1, 4), (1.0, 1.0, 3.0))
    assert {abs(offset[2]) for offset in thick} == {0, 1}
    assert {abs(offset[0]) for offset in thick} == {0, 1, 4}


def test_a_map_of_one_voxel_and_a_small_one() -> None:
    maps = torch.rand(1, 3, 1, 1)
    torch.testing.assert_close(pamr(torch.rand(1, 1, 1, 1), maps), maps)
    assert torch.isfinite(pamr(torch.rand(1, 1, 2, 3, 1), torch.rand(1, 2, 2, 3, 1))).all()


def test_no_gradient_and_the_grid_of_maps() -> None:
    maps = torch.rand(1, 2, 4, 4, requires_grad=True)
    assert not pamr(torch.rand(1, 1, 4, 4), maps).requires_grad
    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    assert torch.equal(to_grid(image, (2, 2))[0, 0], torch.tensor([[0.0, 2.0], [6.0, 8.0]]))
    assert to_grid(torch.rand(1, 2, 8, 8, 8), (2, 2, 2)).shape == (1, 2, 2, 2, 2)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="must agree but for the channels"):
        pamr(torch.rand(1, 1, 4, 4), torch.rand(1, 1, 4, 5))
    with pytest.raises(ValueError, match=r"dilations \[0\]: one or more numbers from 1 on"):
        neighbour_offsets(2, (0,))
    with pytest.raises(ValueError, match=r"spacing \[1.0\]: 2 numbers above 0"):
        neighbour_offsets(2, (1,), (1.0,))
