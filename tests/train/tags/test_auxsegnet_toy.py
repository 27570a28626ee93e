"""AuxSegNet on pictures of heads and bodies: a classifier finds the coloured head, the object is the whole ellipse."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.filters import threshold_otsu
from torch import Tensor, nn

from medseg.method import Clock, Predictions
from medseg.methods.auxsegnet import AuxSegNet, SaliencyFusion
from medseg.methods.tag_classifier import TagClassifier
from medseg.portable.networks.encoder_decoder import EncoderDecoder
from medseg.portable.networks.tag_networks import enlarge

SIZE = 48
COLOURS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]], np.float32)


@dataclass(frozen=True)
class Pictures:
    """Pictures with tags, saliency and masks.

    Args:
        image: `(N, 3, 48, 48)`.
        tags: `(N, 4)` uint8.
        saliency: `(N, 1, 48, 48)` in [0, 1].
        mask: `(N, 48, 48)` uint8.
    """

    image: Tensor
    tags: Tensor
    saliency: Tensor
    mask: Tensor


def draw_pictures(count: int, seed: int) -> Pictures:
    """One or two ellipses of different classes, all grey, each with a coloured patch."""
    rng = np.random.default_rng(seed)
    images, tags, saliency, masks = [], [], [], []
    for _ in range(count):
        image, mask = _draw(rng)
        images.append((image - 0.5) / 0.25)
        tags.append([int((mask == index + 1).any()) for index in range(len(COLOURS))])
        saliency.append(_saliency(image))
        masks.append(mask)
    return Pictures(
        torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float(),
        torch.tensor(tags, dtype=torch.uint8),
        torch.from_numpy(np.stack(saliency))[:, None].float(),
        torch.from_numpy(np.stack(masks)),
    )


def _draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    image = 0.5 + rng.normal(0, 0.06, (SIZE, SIZE, 1)).astype(np.float32).repeat(3, 2)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    y, x = np.mgrid[:SIZE, :SIZE]
    classes = rng.permutation(len(COLOURS))[: rng.integers(1, 3)]
    for index in classes:
        for _ in range(50):
            half = rng.uniform(6, 9.5, 2)
            centre = rng.uniform(half, SIZE - half)
            body = ((y - centre[0]) / half[0]) ** 2 + ((x - centre[1]) / half[1]) ** 2 <= 1
            if not mask[ndimage.binary_dilation(body, iterations=2)].any():
                break
        else:
            continue
        image[body] = 0.8 + rng.normal(0, 0.05, (int(body.sum()), 1))
        top, left = (int(value) - 3 + rng.integers(-1, 2) for value in centre)
        image[top : top + 7, left : left + 7] *= 0.25
        image[top : top + 7, left : left + 7] += 0.75 * COLOURS[index]
        mask[body] = index + 1
    return image, mask


def _saliency(image: np.ndarray) -> np.ndarray:
    away = ndimage.gaussian_filter(np.abs(image - 0.5).max(2), 1)
    return ndimage.gaussian_filter((away > threshold_otsu(away)).astype(np.float32), 0.7)


class Encoder(EncoderDecoder):
    """Five convolutions, stride 4, 64 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.spatial_dims, self.channels, self.strides, self.width = 2, (64,), ((4, 4),), 64
        layers: list[nn.Module] = []
        for number, stride in enumerate((1, 2, 1, 2, 1)):
            before = 64 if number else 3
            layers += [nn.Conv2d(before, 64, 3, stride, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def encode(self, image: Tensor) -> list[Tensor]:
        return [self.layers(image)]

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        return enlarge(features[-1], (SIZE, SIZE))


class Networks:
    """Gives one encoder."""

    classes, spatial_dims, in_channels, has_background, previous = 5, 2, 3, True, None
    patch = (SIZE, SIZE)

    def __init__(self) -> None:
        self.encoder = Encoder()

    def encoder_decoder(self) -> EncoderDecoder:
        return self.encoder

    def assembled(self, kind: type[nn.Module], **arguments) -> nn.Module:
        return kind(**arguments)


def optimise(method, batch_of, iterations: int, encoder_lr: float, seed: int) -> None:
    encoder = {id(parameter) for parameter in method.network.network.parameters()}
    others = [parameter for parameter in method.parameters() if id(parameter) not in encoder]
    groups = [{"params": list(method.network.network.parameters()), "lr": encoder_lr}, {"params": others, "lr": 0.05}]
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=1e-4)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (1 - step / iterations) ** 0.9)
    rng = np.random.default_rng(seed)
    method.train()
    for iteration in range(iterations):
        optimizer.zero_grad()
        sum(method(batch_of(rng), Clock(iteration, iterations)).values()).backward()
        nn.utils.clip_grad_norm_(method.parameters(), 5)
        optimizer.step()
        decay.step()
    method.eval()


def miou(labels: Tensor, masks: Tensor, ignored_is_wrong: bool = True) -> float:
    known = torch.ones_like(masks, dtype=torch.bool) if ignored_is_wrong else labels != 255
    found = []
    for index in range(5):
        one, other = (labels == index) & known, (masks == index) & known
        found.append(float((one & other).sum() / (one | other).sum().clamp(min=1)))
    return 100 * float(np.mean(found))


def best_threshold(maps: Tensor, pictures: Pictures) -> float:
    """mIoU of the largest map of a present class above the best threshold."""
    maps = maps * pictures.tags[:, :, None, None]
    largest, winner = maps.max(1)
    found = [miou((winner + 1) * (largest > threshold), pictures.mask) for threshold in np.arange(0.05, 0.95, 0.05)]
    return max(found)


def relative(refined: Tensor, plain: Tensor) -> Tensor:
    return refined.clamp_min(0) / (plain.clamp_min(0).amax((2, 3), keepdim=True) + 1e-5)


def label_by_rule(maps: Tensor, pictures: Pictures) -> tuple[Tensor, Tensor]:
    rule = SaliencyFusion(5)
    labels, salient = [], []
    for number, of_case in enumerate(maps):
        inputs = {"saliency": pictures.saliency[number, 0][..., None], "image": pictures.image[number][..., None]}
        tags = {index + 1: bool(tag) for index, tag in enumerate(pictures.tags[number])}
        made = rule.label(Predictions((), (), tags=tags, maps=[of_case[..., None]], inputs=inputs), {}, 1)
        labels.append(made.label[..., 0])
        salient.append(made.maps["salient"][..., 0])
    return torch.stack(labels), torch.stack(salient)[:, None]


def run_toy(seed: int, iterations: int, stages: int = 1, affinity: str = "cross") -> Iterator[dict[str, float]]:
    """Figures of the classifier, then of each stage: `maps` and `refined cam` are the same maps before and after A."""
    torch.manual_seed(seed)
    pictures, tests = draw_pictures(300, seed), draw_pictures(100, seed + 1000)
    networks = Networks()
    classifier = TagClassifier(networks, stride=4)

    def tagged(rng):
        chosen = rng.integers(0, 300, 16)
        return {"weak": {"image": pictures.image[chosen], "tags": pictures.tags[chosen]}}

    optimise(classifier, tagged, iterations, 0.05, seed)
    with torch.no_grad():
        maps = classifier.maps()(pictures.image)
    yield {"cam": best_threshold(relative(maps, maps), pictures)}
    method = AuxSegNet(networks, stride=4, width=32, dilations=(2, 4, 6), affinity=affinity)
    method.network.classifier.load_state_dict(classifier.network.classifier.state_dict())
    for stage in range(stages):
        labels, salient = label_by_rule(maps, pictures)

        def labelled(rng, labels=labels, salient=salient):
            chosen = rng.integers(0, 300, 12)
            of_batch = {"image": pictures.image[chosen], "label": labels[chosen][:, None], "salient": salient[chosen]}
            return {"labeled": {**of_batch, "tags": pictures.tags[chosen]}}

        optimise(method, labelled, iterations, 0.01, seed + stage + 1)
        with torch.no_grad():
            maps = method.maps()(pictures.image)
            found = method.network.outputs(tests.image)
        sums = found.affinity.sum(2)
        yield {
            "labels, 255 wrong": miou(labels, pictures.mask),
            "labels, 255 left out": miou(labels, pictures.mask, ignored_is_wrong=False),
            "labelled": float((labels != 255).float().mean()),
            "maps": best_threshold(relative(maps[:, 4:8], maps[:, 4:8]), pictures),
            "refined cam": best_threshold(relative(maps[:, :4], maps[:, 4:8]), pictures),
            "unrefined": miou(enlarge(found.segmentation, (SIZE, SIZE)).argmax(1), tests.mask),
            "refined": miou(enlarge(found.refine(found.segmentation), (SIZE, SIZE)).argmax(1), tests.mask),
            "rows": [round(float(sums.min()), 3), round(float(sums.max()), 3)],
        }


@pytest.mark.slow  # four minutes
def test_the_affinity_lifts_the_maps_and_the_segmentation():
    """Seeds 0, 1 and 2 were seen to gain 1.4, 11.7 and 2.0 of the maps, 2.1, 6.7 and 5.1 of the segmentation.

    Another processor rounds otherwise, which is another training: one has given seed 0 more than 4 of the maps.
    """
    plain, stage = run_toy(1, 330)
    assert stage["refined cam"] > plain["cam"] + 1
    assert stage["refined"] > stage["unrefined"] + 1
