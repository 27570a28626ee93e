"""Classes of which a method's maps say nothing in any image that has them, found before labels are made of the maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from torch import Tensor

from medseg.manifest.manifest import Case, Manifest
from medseg.method import Predictions, PseudoLabels
from medseg.progress import say
from medseg.workflows.train.self_training.labelling.prediction_store import PredictionStore

FLAT = 1e-3
"""Of a map's largest value: by less it does not vary in 16 bits."""


def tell_dead_maps(rule: PseudoLabels, store: PredictionStore, manifest: Manifest, cases: Sequence[Case]) -> None:
    """Say of which classes the maps tell nothing, where a rule works on maps.

    Args:
        rule: by which the cases will be labelled.
        store: predicts.
        manifest: of the tags.
        cases: to label.

    Raises:
        DataError: an image that cannot be predicted.
    """
    if rule.needs == "maps" and manifest.has_background:
        for line in dead_map_warnings(manifest, cases, partial(store.predict, manifest)):
            say(f"warning: {line}")


def dead_map_warnings(
    manifest: Manifest, cases: Sequence[Case], predict: Callable[[Case], Predictions]
) -> Iterator[str]:  # fmt: skip
    """One warning for each class whose map is nowhere positive, or flat, in all images that are tagged with it.

    Images are predicted until each class has a map that says something: mostly as many as there are classes.

    Args:
        manifest: of the tags.
        cases: that will be labelled.
        predict: makes the maps of a case.

    Raises:
        DataError: an image that cannot be predicted.
    """
    silent: dict[int, int] = {}
    spoken: set[int] = set()
    for case in cases:
        tags = manifest.presence(case) or {}
        asked = [index for index, is_there in tags.items() if is_there and index not in spoken]
        if not asked:
            continue
        maps = predict(case).maps or ()
        for index in asked:
            if any(says_something(each, index, len(manifest.labels)) for each in maps):
                spoken.add(index)
                silent.pop(index, None)
            else:
                silent[index] = silent.get(index, 0) + 1
    for index, count in sorted(silent.items()):
        name = manifest.classes[index]
        yield (
            f"the map of {name} is nowhere positive, or flat, in all {count} images tagged with it: no pseudo-label "
            f"will tell where it is; train the stage before longer, or look at these tags"
        )


def says_something(maps: Tensor, index: int, classes: int) -> bool:
    """Whether the map of a class is somewhere positive and not the same everywhere; yes where there is no such map.

    Args:
        maps: `(K, X, Y, Z)`: of the structures first, or of all classes with the background first.
        index: of the class.
        classes: number of classes with background.
    """
    if len(maps) < classes - 1:
        return True
    of_class = maps[index if len(maps) == classes else index - 1]
    largest, smallest = float(of_class.max()), float(of_class.min())
    return largest > 0 and largest - smallest > FLAT * largest
