"""Options of a stage's network that its pipeline leaves open."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from medseg.bundle.safe_load import read_json
from medseg.config import NetworkSpec
from medseg.networks.registry import NetworkEntry, find
from medseg.workflows.train.encoder import OpenEncoder, Start


def plan_options(spec: NetworkSpec, start: Start | None = None) -> NetworkSpec:
    """The network with the options that new trainings have, where the pipeline does not give them.

    Args:
        spec: of the pipeline.
        start: model whose weights the run starts from. Its network was trained with options of its own, such as another
            norm, with which alone its weights mean what they did: they are taken instead.

    Raises:
        BundleError: the configuration of `start` cannot be read.
    """
    entry = find(spec.name)
    left_open = {name: value for name, value in entry.planned.items() if name not in spec.options}
    if not left_open:
        return spec
    trained = None if start is None else _trained_with(start, entry)
    if trained is not None:
        left_open = {name: trained[name] for name in left_open if name in trained}
    return spec.model_copy(update={"options": {**left_open, **spec.options}})


def _trained_with(start: Start, entry: NetworkEntry) -> Mapping[str, Any] | None:
    """The definition of the first network of this kind in a bundle or encoder; None: there is none."""
    if isinstance(start, OpenEncoder):
        whole: Any = start.definition
    else:
        whole = read_json(start.path / "configs" / "inference.json").get("network_def")
    for definition in _definitions(whole):
        if definition["_target_"] == entry.target:
            return definition
    return None


def _definitions(node: Any) -> Iterator[Mapping[str, Any]]:
    if not isinstance(node, Mapping):
        return
    if "_target_" in node:
        yield node
    for part in node.values():
        yield from _definitions(part)
