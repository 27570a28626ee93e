"""Which cases of a manifest feed which stream."""

from __future__ import annotations

from medseg.manifest import Case, Manifest


def streams_of(manifest: Manifest) -> dict[str, list[Case]]:
    """Cases per stream: a training case without a label counts as unlabelled."""
    return {
        "labeled": [case for case in manifest.training if case.label],
        "unlabeled": [*(case for case in manifest.training if not case.label), *manifest.unlabeled],
    }
