"""A pseudo-label rule that knows what it has to know of the data set that it labels."""

from __future__ import annotations

from medseg import methods
from medseg.config.between_runs import RuleSpec
from medseg.manifest.manifest import Case, Manifest
from medseg.method import PseudoLabels
from medseg.workflows.train.self_training.validation_scores import class_sizes


def rule_for(manifest: Manifest, spec: RuleSpec) -> PseudoLabels:
    """The rule of a pipeline, ready for its first pass: it knows the background, and the sizes of classes if it counts.

    Args:
        manifest: whose cases are labelled.
        spec: name and options.

    Raises:
        ConfigError: an option that the rule refuses.
        DataError: a label that cannot be read.
    """
    rule = methods.build_rule(spec.name, len(manifest.labels), **spec.options)
    rule.has_background = manifest.has_background
    if rule.counts_labels:
        rule.class_counts = class_sizes(manifest, rule)
    return rule


def with_standing_maps(case: Case, rule: type[PseudoLabels]) -> Case:
    """A case whose label is known with the maps that stand for those of a rule, unless it has them.

    Args:
        case: that the rule does not label.
        rule: says so by `PseudoLabels.stands_for`.
    """
    standing = {name: case.maps[given] for name, given in rule.stands_for.items() if given in case.maps}
    return case.model_copy(update={"maps": {**standing, **case.maps}}) if standing else case
