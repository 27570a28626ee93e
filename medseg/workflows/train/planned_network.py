"""What a pipeline leaves open of its networks: options, or all that the network it starts from has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from medseg import methods
from medseg.bundle.bundle import OpenBundle
from medseg.bundle.safe_load import read_json
from medseg.config.pipeline import NetworkSpec, Pipeline
from medseg.errors import ConfigError
from medseg.manifest.manifest import Manifest
from medseg.networks.registry import NETWORKS, NetworkEntry, find
from medseg.structure_names import same_structure
from medseg.workflows.train.encoder import OpenEncoder, Start

PRESENTATION = {"spacing_mm", "view", "slices", "patch", "intensity", "resample_axes", "padding"}
"""What a network must be shown as it was in its training, to be asked."""

WIDTHS = ("width", "init_filters", "channels", "filters")
"""Arguments of networks that are, or begin with, the channels of the first level."""


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


def follow_previous(pipeline: Pipeline, start: Start | None) -> Pipeline:
    """The pipeline with the network and the presentation of the data that its method asks about images.

    Args:
        pipeline: as it was read.
        start: model that the first stage starts from.

    Returns:
        The same for methods that ask none. What the pipeline says of `data` itself stays.

    Raises:
        ConfigError: there is nothing to start from, or several networks.
    """
    first = pipeline.stages[0]
    if not methods.find(first.method.name).asks_previous:
        return pipeline
    if start is None or isinstance(start, OpenEncoder):
        found = "there is none" if start is None else "an encoder knows no classes"
        raise ConfigError(
            f"method {first.method.name} asks the network that it starts from, and {found}",
            hint="give --init-from RUN, the run or bundle that knows the old classes",
        )
    if start.views:
        raise ConfigError(
            f"has networks for {', '.join(start.views)}; method {first.method.name} starts from one network",
            path=start.path,
        )
    if start.data.regions:
        raise ConfigError(
            f"has regions, which overlap; method {first.method.name} starts from a network of classes that do not",
            path=start.path,
        )
    stage = first.model_copy(update={"network": _network_of(start)})
    data = start.data.model_dump(mode="json", include=PRESENTATION) | dict(pipeline.data)
    return pipeline.model_copy(update={"stages": (stage, *pipeline.stages[1:]), "data": data})


def describe_known(pipeline: Pipeline, manifest: Manifest, start: Start | None) -> dict[str, str]:
    """The row of a plan with the classes that the network before knows, and the new ones; else no row.

    Args:
        pipeline: planned.
        manifest: the data set.
        start: model that the first stage starts from.
    """
    asks = methods.find(pipeline.stages[0].method.name).asks_previous
    if not asks or start is None or isinstance(start, OpenEncoder):
        return {}
    old = [start.data.labels[value] for value in start.data.output_values]
    known, new = [], []
    for name in manifest.structures.values():
        match = next((each for each in old if same_structure(each, name)), None)
        if match is None:
            new.append(name)
        else:
            known.append(name if match == name else f"{match} as {name}")
    return {"known already": f"{', '.join(known) or 'none'}; new: {', '.join(new) or 'none'}"}


def _network_of(bundle: OpenBundle) -> NetworkSpec:
    content = read_json(bundle.path / "configs" / "inference.json")
    found = network_of_definition(content.get("network_def"))
    if found is None:
        raise ConfigError(f"its network is none of {', '.join(NETWORKS)}", path=bundle.path)
    return found


def network_of_definition(definition: Any) -> NetworkSpec | None:
    """A network as a pipeline would name it, with all its options; None: a pipeline cannot name it.

    Args:
        definition: the `_target_` dictionary that makes it, or one that holds that.
    """
    targets = {entry.target.removeprefix("medseg.portable."): entry for entry in NETWORKS.values()}
    for part in _definitions(definition):
        entry = targets.get(part["_target_"].removeprefix("medseg.portable.").removeprefix("scripts."))
        if entry is not None:
            options = {name: value for name, value in part.items() if name in entry.options}
            widths = [options[name] for name in WIDTHS if name in options]
            width = widths[0] if isinstance(widths[0], int) else widths[0][0]
            return NetworkSpec(name=entry.name, width=width, options=options)
    return None


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
