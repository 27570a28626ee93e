"""All stages of a planned pipeline built once: a mistake in a later one is found before the first is trained."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from medseg import methods
from medseg.config.pipeline import DataSpec, Pipeline, Stage
from medseg.engine import distributed
from medseg.errors import ConfigError, ManifestError
from medseg.method import Frozen, Method
from medseg.networks.factory import check_exportable
from medseg.progress import say_once
from medseg.workflows.train.encoder import OpenEncoder, Start
from medseg.workflows.train.stages.build import build_method, open_previous, select_view
from medseg.workflows.train.stages.maps import needs_maps, rule_of

Product = Literal["bundle", "encoder"]
"""What a run leaves."""

WITHOUT_BACKGROUND = (("fusion", "vote"), ("fusion", "mean"))
"""Settings of fusions that treat all classes alike."""


Presences = Mapping[str, Sequence[Mapping[int, bool]]]
"""Stream -> tags of each of its cases: class index -> whether it is there."""


def check_buildable(
    pipeline: Pipeline,
    start: Start | None = None,
    tags: Sequence[Presences] | None = None,
    product: Product = "bundle",
    *,
    cases: Sequence[Mapping[str, int]] = (),
    validated: int | None = None,
    data_set: Path | None = None,
) -> None:
    """Build every network, method and rule once: a mistake in a later stage is found before the first is trained.

    Args:
        pipeline: planned.
        start: what the first stage starts from.
        tags: of each stage; None: they are not looked at.
        product: what the run leaves.
        cases: of each stage, how many each stream has; none: methods are not asked for warnings.
        validated: labelled validation cases; None: it is not known.
        data_set: the manifest, for messages.

    Raises:
        ConfigError: as `build_method`; options that a rule does not have; a segmenter that cannot be exported; a last
            stage without one, or with one where an encoder is wanted; an encoder of other images; tags that teach a
            method nothing; heads that validation cases are to choose between, and there are none.
        ManifestError: images or classes that do not go with the network that a stage starts from.
    """
    data = DataSpec(**pipeline.data)
    for index, stage in enumerate(pipeline.stages):
        _check_rules(index, stage, data)
    earlier: dict[str, Frozen] = {}
    with torch.random.fork_rng(devices=()):
        for index, stage in enumerate(pipeline.stages):
            made: dict[str, Frozen] = {}
            for view_data in stage.specs(data):
                previous = None
                if index == 0 and start is not None:
                    if isinstance(start, OpenEncoder):
                        start.check_fits(stage.network, view_data)
                    previous = open_previous(start.path, view_data.view)
                elif index > 0 and stage.init == "previous":
                    previous = select_view(earlier, view_data.view if stage.views else None)
                with _naming(stage, data_set, start if index == 0 else None):
                    method = build_method(stage, view_data, previous)
                if tags is not None:
                    _check_tags(method, stage, tags[index], data_set)
                _tell_cautions(method, stage, cases[index : index + 1])
                _check_heads(method, stage, validated, data_set)
                left = _find_product(method, pipeline, index, product)
                if left is not None:
                    check_exportable(left)
                    made[view_data.view] = Frozen(copy.deepcopy(left))
                if needs_maps(stage):
                    _check_maps(method, stage, view_data)
            earlier = made


@contextmanager
def _naming(stage: Stage, data_set: Path | None, start: Start | None) -> Iterator[None]:
    """Name the data set, and what the run starts from, where a method says that they do not go together."""
    try:
        yield
    except ManifestError as error:
        hint = error.hint if start is None else f"it starts from {start.path}"
        raise ManifestError(f"method {stage.method.name}: {error.problem}", path=data_set, hint=hint) from error


def _tell_cautions(method: Method, stage: Stage, counted: Sequence[Mapping[str, int]]) -> None:
    """Say what a method has to say of its settings, once."""
    if distributed.rank() > 0:
        return
    for cases in counted:
        for caution in [*method.cautions(cases), *_unused_cases(method, stage, cases)]:
            say_once(f"warning: {stage.method.name}: {caution}")


def _unused_cases(method: Method, stage: Stage, cases: Mapping[str, int]) -> list[str]:
    """Where a batch was given that leaves out cases from which the method would learn."""
    batch = stage.schedule.batch
    if batch is None:
        return []
    left_out = [stream.name for stream in method.streams if stream.name not in batch and cases.get(stream.name)]
    unused = [f"{cases[name]} {name}" for name in left_out]
    if not unused:
        return []
    given = ", ".join(f"{stream}: {size}" for stream, size in batch.items())
    return [f"schedule.batch is {{{given}}}, so that nothing is learnt from the {' and '.join(unused)} cases"]


def _check_tags(method: Method, stage: Stage, tags: Presences, data_set: Path | None) -> None:
    presence: list[Mapping[int, bool]] = []
    for stream in method.streams:
        if "tags" in stream.keys:
            presence += tags[stream.name]
    try:
        method.check_tags(presence)
    except ValueError as error:
        raise ConfigError(f"method {stage.method.name}: {error}", path=data_set) from error


def _check_heads(method: Method, stage: Stage, validated: int | None, data_set: Path | None) -> None:
    """See that there are cases to choose between heads of a segmenter, where any are to."""
    if not method.head_choices or validated != 0:
        return
    heads = " and ".join(method.head_choices)
    what = f"method {stage.method.name}: labelled validation cases are to choose between its heads {heads}"
    raise ConfigError(
        f"{what}, and there is none", path=data_set, hint="list cases with a label under 'validation', or name one head"
    )


def _check_rules(index: int, stage: Stage, data: DataSpec) -> None:
    """Build the rules of a stage; nothing may treat the first class as background in a data set that has none.

    Raises:
        ConfigError: options that a rule does not have, or that need a background.
    """
    for part in (stage.rounds, stage.then):
        if part is not None:
            rule = methods.build_rule(part.rule.name, data.classes, **part.rule.options)
            if rule.counts_images and data.target != "images":
                what = f"takes whole images as samples, and data.target is {data.target}"
                raise ConfigError(
                    f"stages.{index}: rule {part.rule.name} {what}",
                    hint="--set data.target=images where each image has one class",
                )
            if (rule.one_view or rule.needs == "log_odds") and len(stage.views) > 1:
                raise ConfigError(
                    f"stages.{index}: rule {part.rule.name} is for one view, got {', '.join(stage.views)}"
                )
    if data.has_background:
        return
    asked = [{"fusion": stage.fusion}]
    asked += [part.rule.options for part in (stage.rounds, stage.then) if part is not None]
    for options in asked:
        for name in ("fusion", "background_confidence"):
            value = options.get(name)
            if value is not None and (name, value) not in WITHOUT_BACKGROUND:
                raise ConfigError(
                    f"stages.{index}: {name} {value} treats the first class as background, and the data set has none"
                )


def _find_product(method: Method, pipeline: Pipeline, index: int, product: Product) -> nn.Module | None:
    """What a stage would leave to the next one; None: nothing but its maps."""
    segmenter = method.segmenter()
    stage, name = pipeline.stages[index], pipeline.stages[index].method.name
    if product == "encoder":
        if segmenter is not None:
            raise ConfigError(f"{name} makes a segmenter, no encoder", hint="medseg train trains it")
        return method.pretrained()
    if segmenter is not None:
        return segmenter
    following = pipeline.stages[index + 1 : index + 2]
    if not following:
        raise ConfigError(
            f"the last stage makes no segmenter: {name} only prepares weights",
            hint="medseg pretrain makes an encoder of it",
        )
    if stage.rounds or (stage.then and not needs_maps(stage)):
        raise ConfigError(f"{name} makes no segmenter, so that nothing can make pseudo-labels")
    if type(method).pretrained is not Method.pretrained:
        return method.pretrained()
    if stage.then is None or following[0].init == "previous":
        raise ConfigError(f"{name} makes no segmenter and has no pretrained(), which the next stage needs")
    return None


def _check_maps(method: Method, stage: Stage, data: DataSpec) -> None:
    """See that a method has the maps that the rule of its stage works on, as large as the image.

    Raises:
        ConfigError: it has none, or of another size.
    """
    rule = rule_of(stage)
    assert rule is not None
    module = method.maps()
    if module is None:
        raise ConfigError(f"rule {rule.name} works on maps of the method, and {stage.method.name} has none (maps())")
    was_training = method.training
    method.eval()
    image = torch.zeros(1, data.channels, *data.network_patch)
    with torch.no_grad():
        found = tuple(module.eval()(image).shape)
    method.train(was_training)
    if found[0] != 1 or found[2:] != data.network_patch:
        raise ConfigError(
            f"maps() of {stage.method.name} makes {found} of an image {tuple(image.shape)}; "
            f"accepted is (1, K, {', '.join(map(str, data.network_patch))})",
            hint="bring them to the size of the image, as FeatureMaps of medseg.portable.networks.encoder_decoder does",
        )
