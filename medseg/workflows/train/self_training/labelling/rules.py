"""A pseudo-label rule that knows what it has to know of the data set that it labels."""

from __future__ import annotations

from medseg import methods
from medseg.config.between_runs import RuleSpec
from medseg.manifest.manifest import Manifest
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
