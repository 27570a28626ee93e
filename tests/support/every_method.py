"""Every method there is, for the tests of the contract, and batches that have whatever a method asks for.

A file that is put into `medseg/methods/` and named in `METHODS` is taken up by itself, and so is each class of
`small_methods.py` and of `examples/`. Only terms that are off by default have to be switched on here (`SWITCHED_ON`).
"""

from __future__ import annotations

import copy
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from given_networks import PATCHES, factory
from torch import Tensor

from medseg import methods
from medseg.method import STREAM_KEYS, Clock, Frozen, Method, PseudoLabels, Stream

ROOT = Path(__file__).parents[2]
CLASSES = 3
CLOCK = Clock(50, 100)

SWITCHED_ON: dict[str, dict[str, Any]] = {
    "dtc": {"cross_entropy": 1.0, "exclusivity": 1.0},
    "ael": {"dice": 1.0},
    "s4l": {"exemplar": 1.0, "vat": 1.0, "entropy": 1.0},
    "crest": {"dice": 1.0, "threshold": 0.0},
    "mix_and_match": {"pool": 12},
    # the networks before know all classes, and of an untrained localizer many voxels look alike
    "wilson": {
        "tags": "all",
        "channels": 8,
        "stride": 2,
        "share": 0.98,
        "background_share": 0.98,
        "least": 0.0,
    },
}
"""Method -> options that switch on the terms whose default weight is 0, and make the method small."""

WITHOUT_LABELS = {"s4l": {"rotation", "exemplar"}}
"""Method -> terms that learn from labelled images without their labels: what those ignore is part of the image."""

LEFT_OUT = ("OwnNetwork", "Tagger", "Focused")
"""Small methods that show what is refused, or that hold for the data of one test only."""

Batch = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class Subject:
    """A method under test.

    Attributes:
        name: by which a pipeline calls it.
        kind: the class.
        own: whether it is not one of medseg's, so that a command must be given the class.
    """

    name: str
    kind: type[Method]
    own: bool

    def __str__(self) -> str:
        return self.name

    @property
    def options(self) -> dict[str, Any]:
        """With which every term is on."""
        return SWITCHED_ON.get(self.name, {})

    def build(self, networks: Any, *, seed: int = 0, **options: Any) -> Method:
        """The method with new weights, the same each time."""
        torch.manual_seed(seed)
        with methods.use_methods(methods.locate_methods(self.kind if self.own else None)):
            return methods.build(self.name, networks, **options)

    def make(self, dims: int, channels: int = 2, *, seed: int = 0, **options: Any) -> Method:
        """The method with all terms on, small V-Nets and a stage before it."""
        torch.manual_seed(seed)
        earlier = factory(dims, CLASSES, channels=channels).segmenter()
        previous = Frozen(earlier, ("background", "class1", "class2"))
        networks = factory(dims, CLASSES, channels=channels, previous=previous, start=True)
        return self.build(networks, seed=seed, **{**self.options, **options})

    def sees(self, key: str) -> bool:
        """Whether some stream has a key."""
        return any(key in stream.keys for stream in self.kind.streams)


def map_names(stream: Stream) -> list[str]:
    """The maps that a stream asks of each case."""
    return [key for key in stream.keys if key not in STREAM_KEYS]


@cache
def _execute(path: Path) -> ModuleType:
    """A module of the tests or examples, by the name that an import would give it."""
    if path.stem not in sys.modules:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
    return sys.modules[path.stem]


def classes_in(module: ModuleType, base: type) -> list[type]:
    """The classes of a kind that a module defines and that can be made."""
    found = []
    for each in vars(module).values():
        is_one = inspect.isclass(each) and issubclass(each, base) and not inspect.isabstract(each)
        if is_one and each.__module__ == module.__name__:
            found.append(each)
    return found


def every_method() -> list[Subject]:
    """medseg's methods, then those of the tests and of the examples."""
    found = [Subject(name, methods.find(name), own=False) for name in methods.METHODS]
    for path in (Path(__file__).with_name("small_methods.py"), *sorted((ROOT / "examples").glob("*.py"))):
        if "medseg.method" not in path.read_text(encoding="utf-8"):
            continue
        for kind in classes_in(_execute(path), Method):
            if kind.__name__ not in LEFT_OUT:
                found.append(Subject(kind.__name__, kind, own=True))
    return found


def shipped_classes() -> dict[str, set[str]]:
    """ "method" and "rule" -> the classes that the files of `medseg/methods/` define."""
    found: dict[str, set[str]] = {"method": set(), "rule": set()}
    for path in sorted((ROOT / "medseg" / "methods").glob("[!_]*.py")):
        module = importlib.import_module(f"medseg.methods.{path.stem}")
        for what, base in (("method", Method), ("rule", PseudoLabels)):
            found[what] |= {f"{module.__name__}:{kind.__name__}" for kind in classes_in(module, base)}
    return found


def make_label(shape: tuple[int, ...], size: int) -> np.ndarray:
    """`(size, 1, *shape)` uint8: two boxes, and a slab of 255."""
    label = np.zeros((size, 1, *shape), np.uint8)
    depth = [slice(1, 6)] * (len(shape) - 2)
    label[(slice(None), 0, slice(4, 12), slice(4, 12), *depth)] = 1
    label[(slice(None), 0, slice(6, 9), slice(14, 22), *depth)] = 2
    label[:, 0, :2] = 255
    return label


def batch_size(stream: Stream) -> int:
    """Two images of a stream, or two groups."""
    return 2 * getattr(stream, "batch_multiple", 1)


def make_batch(method: Method, dims: int, channels: int = 2) -> Batch:
    """Random images, boxes for labels, tags of which the first is shared, maps between 0 and 1."""
    rng = np.random.default_rng(1)
    shape = tuple(length for length in PATCHES[dims] if length > 1)
    batch: Batch = {}
    for stream in method.streams:
        size = batch_size(stream)
        found = {"image": rng.standard_normal((size, channels, *shape), dtype=np.float32)}
        for name in map_names(stream):
            found[name] = rng.random((size, 1, *shape), dtype=np.float32)
        if "tags" in stream.keys:
            found["tags"] = rng.choice(np.array([0, 1, 255], np.uint8), (size, CLASSES - 1))
            found["tags"][:, 0] = 1
        for key in {"index", "case"}.intersection(stream.keys):
            found[key] = np.arange(size)
        if "place" in stream.keys:
            found["place"] = np.stack([np.eye(dims, dims + 1, dtype=np.float32) / 8] * size)
        if "evenly" in stream.keys:
            found["evenly"] = np.arange(size) % 2 == 0
        if "label" in stream.keys:
            found["label"] = make_label(shape, size)
            found |= make_targets(method, found["label"])
        batch[stream.name] = {key: torch.from_numpy(value) for key, value in found.items()}
    return batch


def make_targets(method: Method, label: np.ndarray) -> dict[str, np.ndarray]:
    """What the loader's workers make of label patches."""
    targets = method.targets()
    if targets is None:
        return {}
    made = [targets(each[0]) for each in label]
    return {key: np.stack([arrays[key] for arrays in made]) for key in made[0]}


def terms_of(method: Method, batch: Mapping[str, Mapping[str, Tensor]], *, seed: int = 0) -> dict[str, Tensor]:
    """The terms of a copy of the method, whose banks stay as they are, with the same random numbers each time."""
    torch.manual_seed(seed)
    return copy.deepcopy(method)(batch, CLOCK)


def values_of(method: Method, batch: Mapping[str, Mapping[str, Tensor]]) -> dict[str, float]:
    """The terms as numbers."""
    return {name: term.item() for name, term in terms_of(method, batch).items()}
