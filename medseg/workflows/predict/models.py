"""The models of a prediction: one, or several whose class probabilities are averaged, and how each is asked."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from medseg.bundle.bundle import OpenBundle, open_bundle
from medseg.bundle.components import describe
from medseg.config.pipeline import DataSpec
from medseg.errors import BundleError, ConfigError
from medseg.portable.inference.components import LARGEST, Rule, Rules
from medseg.portable.inference.multi_view import FUSIONS, ViewsInferer
from medseg.records import hash_of, read_record
from medseg.workflows.predict.options import PredictOptions

Say = Callable[[str], None]

ALL_STRUCTURES = "all"
"""In the place of a structure's name."""


def open_models(paths: Sequence[Path], say: Say) -> list[OpenBundle]:
    """Open all models; of the folder of a cross-validation the models of all folds.

    Args:
        paths: run folders or bundles.
        say: shows a line.

    Raises:
        BundleError: one cannot be used, is given twice, or finds other structures or takes other channels than the
            first.
    """
    bundles: list[OpenBundle] = []
    for path in paths:
        folds = _folds_of(path)
        if folds:
            say(f"{path}: the mean of its folds {', '.join(fold.name for fold in folds)}")
        for each in folds or [path]:
            bundle = open_bundle(each)
            _check_member(bundle, bundles)
            bundles.append(bundle)
    return bundles


def _folds_of(path: Path) -> list[Path]:
    """The run folders of a cross-validation; none where a path is something else.

    Raises:
        BundleError: some of them have no model.
    """
    first = path / "fold0"
    split = read_record(first / "run.json").get("settings", {}).get("split", {})
    if (path / "bundle").exists() or (path / "run.json").exists() or "folds" not in split:
        return []
    folds = [path / f"fold{number}" for number in range(int(split["folds"]))]
    missing = [fold.name for fold in folds if not (fold / "bundle" / "configs" / "inference.json").is_file()]
    if missing:
        raise BundleError(
            f"has no model of {', '.join(missing)}, of {len(folds)} folds",
            path=path,
            hint="finish its training with --resume, or name folds: --model " + str(first),
        )
    return folds


def _check_member(bundle: OpenBundle, others: Sequence[OpenBundle]) -> None:
    """See that a model can be averaged with the first one, and is another."""
    for other in others:
        if other.digest == bundle.digest:
            raise BundleError(f"is the same model as {other.path}", path=bundle.path, hint="give each model once")
    if not others:
        return
    first, mine = others[0].data, bundle.data
    for what, of_first, found in (
        ("finds", _labels(first), _labels(mine)),
        ("takes the channels", ", ".join(first.modality), ", ".join(mine.modality)),
    ):
        if found != of_first:
            raise BundleError(
                f"{what} {found}, and {others[0].path} {of_first}: they cannot be averaged",
                path=bundle.path,
                hint="give models of the same labels and channels",
            )


def _labels(data: DataSpec) -> str:
    if data.regions:
        return ", ".join(f"{region.name} ({', '.join(map(str, region.values))})" for region in data.regions)
    return ", ".join(f"{value} {data.labels[value]}" for value in data.label_values)


def configure_models(
    bundles: Sequence[OpenBundle], options: PredictOptions, say: Say, unit: str = "mm"
) -> tuple[dict[str, Any], Rules]:
    """Set how each model is asked.

    Args:
        bundles: opened; their inferers are set.
        options: of the command.
        say: shows a line.
        unit: of lengths in the images, mm or px.

    Returns:
        What the report says of the models and of how they predict, and the rules that are applied to their result.

    Raises:
        ConfigError: options that a model has no use for.
    """
    if len(bundles) > 1 and options.fusion:
        raise ConfigError(f"--fusion {options.fusion}: of several models the probabilities are averaged, also of views")
    settings = [_configure(bundle, options, averaged=len(bundles) > 1) for bundle in bundles]
    data = bundles[0].data
    rules = _common_rules(bundles, say) if options.postprocessing else {}
    if rules:
        say(f"post-processing of the model: {_described(rules, data, unit)} (--no-postprocessing leaves it out)")
    asked = _rules_of_largest(options.largest, data)
    if asked:
        say(f"post-processing by --largest: {_described(asked, data, unit)}")
    rules = {**rules, **asked}
    for bundle in bundles:
        bundle.inferer.components = rules
    shared: dict[str, Any] = {"probabilities": options.probabilities}
    if rules:
        shared["components"] = {str(value): rule for value, rule in rules.items()}
    if len(bundles) == 1:
        (bundle,) = bundles
        return {
            "model": str(bundle.path),
            "model_sha256": bundle.digest,
            "settings": {**settings[0], **shared},
        }, rules
    models = []
    for bundle, of_bundle in zip(bundles, settings, strict=True):
        models.append({"model": str(bundle.path), "model_sha256": bundle.digest, "settings": of_bundle})
    together = hash_of(sorted([bundle.digest, hash_of(each)] for bundle, each in zip(bundles, settings, strict=True)))
    paths = [str(bundle.path) for bundle in bundles]
    return {"model": paths, "model_sha256": together, "models": models, "settings": shared}, rules


def _described(rules: Rules, data: DataSpec, unit: str) -> str:
    return "; ".join(f"{data.labels[value]}: {describe(rule, unit)}" for value, rule in rules.items())


def _rules_of_largest(names: Sequence[str], data: DataSpec) -> Rules:
    """The rule of the largest component for structures that the user says to be in one piece.

    Raises:
        ConfigError: no such structure, or labels of which nothing can become background.
    """
    if not names:
        return {}
    if data.target == "images":
        raise ConfigError(f"--largest {names[0]}: the model names whole images, and has no structures")
    if data.regions or not data.has_background:
        why = "structures overlap" if data.regions else "labels have no background"
        raise ConfigError(f"--largest {names[0]}: the model's {why}, so that nothing can become background")
    rules: Rules = {}
    for name in names:
        found = []
        for value, structure in data.structures.items():
            if name in (structure, str(value), ALL_STRUCTURES):
                found.append(value)
        if not found:
            accepted = ", ".join([*data.structures.values(), ALL_STRUCTURES])
            raise ConfigError(f"--largest {name}: no such structure; accepted are {accepted}")
        rules |= dict.fromkeys(found, LARGEST)
    return rules


def _common_rules(bundles: Sequence[OpenBundle], say: Say) -> Rules:
    """The mildest rule of each structure of which every model has one, see `mildest_rule`."""
    data = bundles[0].data
    common: Rules = {}
    for value in data.label_values:
        rules = []
        for bundle in bundles:
            if value in bundle.inferer.components:
                rules.append(bundle.inferer.components[value])
        if len(rules) == len(bundles):
            common[value] = mildest_rule(rules)
        elif rules:
            name = data.labels[value]
            say(
                f"post-processing: {len(rules)} of {len(bundles)} models have a rule for {name}, none is applied; "
                f"--largest {shlex.quote(name)} keeps it in one piece"
            )
    return common


def mildest_rule(rules: Sequence[Rule]) -> Rule:
    """Of several rules for one structure the one that removes least.

    That is the smallest of the smallest volumes: a volume is at most that of the smallest component in the labels of a
    training, so that what it removes is no part of the structure, whereas the largest component removes all but one.
    It is left for where every model has it.

    Args:
        rules: of each model; at least one.

    Examples:
        >>> from medseg.workflows.predict.models import mildest_rule
        >>> mildest_rule([{"smallest_mm3": 450.0}, {"keep": "largest"}, {"smallest_mm3": 110.0}])
        {'smallest_mm3': 110.0}
    """
    by_volume = [rule for rule in rules if rule != LARGEST]
    return min(by_volume, key=lambda rule: rule["smallest_mm3"]) if by_volume else LARGEST


def _configure(bundle: OpenBundle, options: PredictOptions, *, averaged: bool) -> dict[str, Any]:
    """Set the inferer of one model and return with what it predicts."""
    inferer = bundle.inferer
    views = _views(bundle, options, averaged=averaged)
    if isinstance(inferer, ViewsInferer):
        inferer.views, inferer.fusion = views, options.fusion or inferer.fusion
    if options.overlap is not None:
        inferer.overlap = options.overlap
    if options.mirror:
        inferer.mirror_axes = _mirror_axes(bundle)
        inferer.mirror_one = bundle.data.augment.mirrors_one
    settings: dict[str, Any] = {"overlap": inferer.overlap, "mirror_axes": list(inferer.mirror_axes)}
    if inferer.mirror_one:
        settings["mirror_one"] = True
    if isinstance(inferer, ViewsInferer):
        settings |= {"views": list(views), "fusion": inferer.fusion}
    return settings


def _mirror_axes(bundle: OpenBundle) -> tuple[int, ...]:
    """The axes along which training mirrored: across its slices a planar network cannot have been.

    Raises:
        ConfigError: there are none.
    """
    data = bundle.data
    trained = tuple(axis for axis in data.augment.mirrored_axes if axis != data.slice_axis)
    if trained:
        return trained
    possible = [axis for axis in range(3) if axis != data.slice_axis and not (axis == 0 and data.has_sides)]
    axes = ",".join(map(str, possible))
    raise ConfigError(
        "--mirror: the model was not trained on mirrored images",
        path=bundle.path,
        hint=f"train one with --set data.augment.flip.axes=[{axes}]",
    )


def _views(bundle: OpenBundle, options: PredictOptions, *, averaged: bool) -> tuple[str, ...]:
    """The views to ask; none of a model that has one network.

    Args:
        bundle: opened.
        options: of the command.
        averaged: whether the model is one of several, whose probabilities are averaged, also those of views.

    Raises:
        ConfigError: a view that the model does not have, an unknown fusion, or probabilities of several views.
    """
    known = bundle.views or (bundle.data.view,)
    for view in options.views:
        if view not in known:
            raise ConfigError(f"--view {view}: the model has no such view; it has {', '.join(known)}", path=bundle.path)
    if options.fusion and (options.fusion not in FUSIONS or not bundle.views):
        accepted = (
            f"accepted are {', '.join(FUSIONS)}" if bundle.views else "the model has one network, nothing to fuse"
        )
        raise ConfigError(f"--fusion {options.fusion}: {accepted}", path=bundle.path)
    if options.fusion == "any" and not bundle.data.has_background:
        raise ConfigError(
            "--fusion any: views that say background have no vote, and the model's labels have no background; "
            "accepted are vote, mean",
            path=bundle.path,
        )
    if not bundle.views:
        return ()
    views = tuple(dict.fromkeys(options.views)) or bundle.views
    if options.probabilities and len(views) > 1 and not averaged:
        raise ConfigError(
            "--probabilities: the views agree on labels, and have no probabilities of all classes in common",
            path=bundle.path,
            hint="ask for one, " + " or ".join(f"--view {view}" for view in views),
        )
    return views
