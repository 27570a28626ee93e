"""Whether a data set has what each stage of a pipeline learns from, and what its rule looks at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from medseg import methods
from medseg.config.between_runs import RuleSpec
from medseg.config.pipeline import Pipeline, Stage
from medseg.errors import ConfigError, ManifestError
from medseg.manifest.labelling import Groups, cases_to_label, groups_after, is_pseudo
from medseg.manifest.manifest import Case, Manifest, streams_of
from medseg.method import STREAM_KEYS, Method, Stream
from medseg.workflows.train.self_training.labelling.predict_maps import IMAGE
from medseg.workflows.train.self_training.labelling.rules import with_standing_maps

MISSING_STREAM = {
    "labeled": ("no labelled case under 'training'", "training needs at least one 'label'"),
    "unlabeled": ("no unlabelled case", "list images without a label under 'unlabeled'"),
    "weak": ("no case with tags and without a label under 'training'", 'give cases "tags", if only []'),
    "all": ("no case to learn from", "list images under 'training' or 'unlabeled'"),
}
"""Stream -> what is said where a data set has none of its cases, and what to do about it."""


def groups_of_stages(pipeline: Pipeline, manifest: Manifest) -> list[Groups]:
    """For each stage the cases that it finds, if the rules of the stages before label every case that they may."""
    groups: Groups = streams_of(manifest)
    found = []
    for stage in pipeline.stages:
        found.append(groups)
        if stage.then is not None:
            rule = methods.find_rule(stage.then.rule.name)
            groups = groups_after(groups, stage.then.cases, rule.makes)
            labeled = [with_standing_maps(case, rule) for case in groups["labeled"]]
            groups = {**groups, "labeled": labeled}
    return found


def learns_from_tags(pipeline: Pipeline) -> bool:
    """Whether a method of the pipeline is told which structures an image as a whole shows."""
    for stage in pipeline.stages:
        streams = methods.find_streams(stage.method.name, stage.method.options)
        if any("tags" in stream.keys for stream in streams):
            return True
    return False


def check_all_streams(pipeline: Pipeline, manifest: Manifest) -> list[Groups]:
    """See that the data set has what each stage learns from, and what its rule looks at.

    Returns:
        For each stage the cases that it finds, see `groups_of_stages`.

    Raises:
        ConfigError, ManifestError: see `check_streams`.
    """
    found = groups_of_stages(pipeline, manifest)
    standing: dict[str, str] = {}
    for stage, groups in zip(pipeline.stages, found, strict=True):
        check_streams(stage, manifest, groups, standing)
        if stage.then is not None:
            standing |= methods.find_rule(stage.then.rule.name).stands_for
    return found


def check_streams(stage: Stage, manifest: Manifest, groups: Groups, standing: Mapping[str, str] | None = None) -> None:
    """See that the data set has what the method of a stage learns from, and what its rule looks at.

    Args:
        stage: of the pipeline.
        manifest: the data set.
        groups: the cases that the stage finds.
        standing: see `PseudoLabels.stands_for`, of the rules of the stages before.

    Raises:
        ConfigError: a stream that is none.
        ManifestError: a stream without cases, or a case without what is asked of it.
    """
    name = stage.method.name
    streams = methods.find_streams(name, stage.method.options)
    for stream in streams:
        if stream.name not in groups:
            raise ConfigError(f"method {name} has the stream {stream.name!r}; accepted are {', '.join(groups)}")
        cases = groups[stream.name]
        if not cases and not stream.optional:
            what, hint = MISSING_STREAM[stream.name]
            raise ManifestError(f"{what}, which {name} learns from", path=manifest.path, hint=hint)
        if stream.group and stream.name == "weak" and cases:
            _check_groups(name, stream, cases, manifest)
        maps = [key for key in stream.keys if key not in STREAM_KEYS]
        _check_maps(name, maps, cases, f"each {stream.name} case", manifest, standing or {})
    if methods.find(name).check_tags is Method.check_tags:  # others look themselves, once they are built
        _check_tags(name, streams, groups, manifest)
    part = stage.rounds or stage.then
    if part is not None:
        maps = [key for key in methods.find_rule(part.rule.name).inputs if key != IMAGE]
        cases = cases_to_label(groups, part.cases)
        if stage.rounds and not cases and methods.find_rule(part.rule.name).needs_cases:
            raise ManifestError(
                f"no unlabelled case, of which rule {part.rule.name} makes labels for the next generation",
                path=manifest.path,
                hint="list images without a label under 'unlabeled', or train without rounds: stages.0.rounds=null",
            )
        _check_maps(f"rule {part.rule.name}", maps, cases, "each case that it labels", manifest)
        _check_validation(part.rule, manifest)


def _check_validation(spec: RuleSpec, manifest: Manifest) -> None:
    """See that there are labelled validation cases, where a rule leaves out classes by them."""
    rule = methods.build_rule(spec.name, len(manifest.labels), **spec.options)
    if rule.asks_validation and not any(case.is_labelled for case in manifest.validation):
        raise ManifestError(
            f"rule {spec.name} leaves out classes by labelled validation cases, and there is none",
            path=manifest.path,
            hint="list some under 'validation', or set least_precision to 0",
        )


def describe_tag_groups(stage: Stage, manifest: Manifest) -> str:
    """How many cases have no other with their tags, where a method makes groups of such; else nothing."""
    for stream in methods.find_streams(stage.method.name, stage.method.options):
        if stream.group != "same_tags" or stream.group_size == 1:
            continue
        cases = streams_of(manifest)[stream.name]
        tags = [tuple(sorted((manifest.presence(case) or {}).items())) for case in cases]
        alone = sum(count == 1 for count in Counter(tags).values())
        several = f"{stream.group_size} images of the same tags"
        return f"{several}; {alone} of {len(cases)} cases share theirs with no other, and are with such as share some"
    return ""


def presences(manifest: Manifest, groups: Groups) -> dict[str, list[dict[int, bool]]]:
    """For each stream the tags of its cases that have some: class index -> whether it is there."""
    found = {}
    for stream, cases in groups.items():
        told = [manifest.presence(case) for case in cases]
        found[stream] = [presence for presence in told if presence is not None]
    return found


def _check_groups(name: str, stream: Stream, cases: Sequence[Case], manifest: Manifest) -> None:
    """See that at least two cases share a tag, so that a group is more than one case with itself."""
    if stream.group_size == 1:
        return
    if stream.group == "same_tags" and len(cases) < stream.group_size:
        raise ManifestError(
            f"{name} makes groups of {stream.group_size} different {stream.name} cases, and there are {len(cases)}",
            path=manifest.path,
            hint=f"give more cases tags, or the method a group_size of {len(cases)}",
        )
    having: Counter[int] = Counter()
    for case in cases:
        presence = manifest.presence(case) or {}
        having.update(index for index, is_there in presence.items() if is_there)
    if max(having.values(), default=0) < 2:
        raise ManifestError(
            f"{name} makes groups of {stream.group_size} {stream.name} cases that share a tag, and no two do",
            path=manifest.path,
        )


def _check_tags(name: str, streams: Sequence[Stream], groups: Groups, manifest: Manifest) -> None:
    """See that some case shows a class, where a method learns classes from tags."""
    cases = [case for stream in streams if "tags" in stream.keys for case in groups[stream.name]]
    if not cases or any(case.is_labelled or is_pseudo(case) for case in cases):
        return
    told = [manifest.presence(case) or {} for case in cases]
    if not any(any(presence.values()) for presence in told):
        raise ManifestError(
            f"no case is tagged with any class, and {name} learns classes from tags",
            path=manifest.path,
            hint='give the images that show one its name in "tags"',
        )


def _check_maps(
    who: str,
    maps: Sequence[str],
    cases: Sequence[Case],
    which: str,
    manifest: Manifest,
    standing: Mapping[str, str] | None = None,
) -> None:
    """See that each case has its maps, or those that stand for them."""
    for key in maps:
        without = [case.name for case in cases if key not in case.maps]
        if not without:
            continue
        wanted = (standing or {}).get(key, key)
        hint = f'add "maps": {{"{wanted}": FILE}} to each case'
        if wanted != key:
            hint += ", or list it under 'validation'"
        raise ManifestError(
            f"{who} needs a map called {wanted!r} of {which}; {len(without)} have none, among them {without[0]}",
            path=manifest.path,
            hint=hint,
        )
