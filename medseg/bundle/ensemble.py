"""Several bundles of the same classes on one image: the mean of their class probabilities decides."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from medseg.bundle.bundle import OpenBundle
from medseg.bundle.memory import check_memory
from medseg.bundle.runner import BundleRunner, Look, Prediction, Progress
from medseg.portable.inference.components import Rules, keep_components
from medseg.portable.inference.label_sink import mapped_array
from medseg.portable.inference.multi_view import ViewsInferer
from medseg.portable.inference.region_sink import fuse_regions
from medseg.portable.inference.view_fusion import fuse_mean
from medseg.portable.io.header import Header
from medseg.portable.io.monai_reader import VerifiedReader


class Ensemble:
    """Runs several bundles on one image after another, each with its own preprocessing, spacing and windows.

    Each has one vote: of a bundle of several views the mean over these is taken first. Probabilities are kept in files,
    one byte for each class, voxel and bundle, and averaged a few planes at a time.

    Args:
        bundles: opened, of the same labels and channels.
        device: of the networks.
        rules: label value -> which of its components stay in the labels.
    """

    def __init__(self, bundles: Sequence[OpenBundle], device: torch.device, rules: Rules) -> None:
        self.bundles, self.rules = tuple(bundles), rules
        self._runners: list[list[BundleRunner]] = []
        for bundle in bundles:
            self._runners.append([BundleRunner(each, device) for each in _by_view(bundle)])

    def check_memory(self, headers: Sequence[Header], image: Path) -> int:
        """Refuse an image that this machine cannot hold; see `BundleRunner.check_memory`."""
        return max(check_memory(bundle, headers, image) for bundle in self.bundles)

    def predict_files(
        self,
        images: Sequence[Path],
        reader: VerifiedReader | None,
        *,
        scratch: Path,
        probabilities: bool,
        progress: Progress | None = None,
        look: Look | None = None,
    ) -> Prediction:
        """Predict an image; see `BundleRunner.predict_files`.

        Raises:
            DataError, ValueError, MemoryError, RuntimeError: as there.
            OSError: there is no room for probabilities.
        """
        scratch.mkdir()
        of_bundles: list[np.ndarray] = []
        affine = np.eye(4)
        for number, runners in enumerate(self._runners):
            image = runners[0].read(images, reader, None if number else look)
            of_views: list[np.ndarray] = []
            for view, runner in enumerate(runners):
                found = runner.predict(image, probability_file=scratch / f"{number}-{view}", progress=progress)
                assert found.probabilities is not None
                of_views.append(found.probabilities)
                affine = found.affine
            of_bundles.append(_mean_of(of_views, scratch / str(number)))
        mean = mapped_array(scratch / "mean", of_bundles[0].shape) if probabilities else None
        data = self.bundles[0].data
        if data.regions:
            winners = _labels_of_regions(of_bundles, data.paint_order, mean)
        else:
            winners = fuse_mean(of_bundles, mean)
        values = torch.tensor(data.label_values, dtype=torch.uint8)
        labels = torch.from_numpy(values.numpy()[winners.numpy()])
        voxel_mm3 = abs(float(np.linalg.det(affine[:3, :3])))
        keep_components(labels, self.rules, int(values[0]), voxel_mm3)
        return Prediction(labels.numpy(), affine, mean)


def _by_view(bundle: OpenBundle) -> list[OpenBundle]:
    """The bundle once for each of its views, all of the same networks."""
    inferer = copy(bundle.inferer)
    inferer.components = {}
    if not isinstance(inferer, ViewsInferer):
        return [replace(bundle, inferer=inferer)]
    single = []
    for view in inferer.views:
        of_view = copy(inferer)
        of_view.views = (view,)
        single.append(replace(bundle, inferer=of_view))
    return single


def _labels_of_regions(of_bundles: Sequence[np.ndarray], order: Sequence[int], mean: np.ndarray | None) -> torch.Tensor:
    """Class indices `(X, Y, Z)` uint8 of the mean probabilities of regions, a plane at a time.

    Args:
        of_bundles: of each bundle `(K, X, Y, Z)`, mapped from a file.
        order: class indices in the order in which they are painted.
        mean: gets the mean; None: it is not wanted.
    """
    labels = torch.zeros(of_bundles[0].shape[1:], dtype=torch.uint8)
    for plane in range(labels.shape[-1]):
        here = [torch.from_numpy(np.ascontiguousarray(each[..., plane])) for each in of_bundles]
        labels[..., plane], stored = fuse_regions(here, order)
        if mean is not None:
            mean[..., plane] = stored.numpy()
    return labels


def _mean_of(of_views: Sequence[np.ndarray], file: Path) -> np.ndarray:
    """The mean of the views, kept in a file if there are several."""
    if len(of_views) == 1:
        return of_views[0]
    mean = mapped_array(file, of_views[0].shape)
    fuse_mean(of_views, mean)
    return mean
