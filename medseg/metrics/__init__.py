"""How well a segmentation agrees with a reference: overlap, surfaces in mm, volumes in ml; no torch.

Definitions, because the same name means different numbers in different tools. A *surface* is the set of a
mask's voxels that have a face neighbour outside the mask; beyond the edge of the image is outside; axes of
length 1 do not count, so that a 2D image has a contour. d(P, R) are the distances in mm from each surface
voxel of the prediction to the nearest surface voxel of the reference, d(R, P) the reverse.

    dice             2 TP / (2 TP + FP + FN)
    jaccard          TP / (TP + FP + FN)
    hd_mm            max of d(P, R) and d(R, P): Hausdorff distance
    hd95_mm          "max_directed": the larger of the two 95th percentiles (MONAI's definition)
    hd95_pooled_mm   "pooled": 95th percentile of d(P, R) and d(R, P) together (medpy's definition)
    asd_mm           mean of d(P, R): one-directional, as in the DTC and UA-MT papers
    assd_mm          mean of d(P, R) and d(R, P) together: symmetric
    surface_dice     share of all surface voxels, of both, that lie within the tolerance (MONAI's definition)

To add a metric, write its function in `medseg.metrics.segmentation` under `@metric(...)`: tables, reports and
means over cases follow.

Empty masks: both empty is `both_empty`, with Dice, Jaccard and surface Dice 1; one empty is `missing`
(prediction empty) or `spurious` (reference empty), with 0. Distances are then None: they do not exist, and 0
would be perfect.
"""

from __future__ import annotations

from medseg.metrics.segmentation import METRICS, Comparison, Metric, Value, metric, segmentation_metrics

__all__ = ["METRICS", "Comparison", "Metric", "Value", "metric", "segmentation_metrics"]
