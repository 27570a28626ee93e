"""Which cases of a data set a rule labels, and what kinds of cases there are afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from medseg.errors import ManifestError
from medseg.manifest.case import Case
from medseg.manifest.manifest import Manifest

Kind = Literal["unlabeled", "weak", "pseudo"]
"""Of cases that a rule may label: without any label, with tags alone, with a label that a rule made."""

Groups = Mapping[str, Sequence[Case]]
"""Stream -> its cases, as `streams_of` gives them."""


def is_pseudo(case: Case) -> bool:
    """Whether the label of a case was made by a rule."""
    return bool((case.model_extra or {}).get("pseudo"))


def cases_to_label(groups: Groups, kinds: Sequence[Kind]) -> list[Case]:
    """The cases of these kinds, one kind after the other.

    Args:
        groups: stream -> cases, as `streams_of` gives them.
        kinds: which are wanted.
    """
    found = {**groups, "pseudo": [case for case in groups["labeled"] if is_pseudo(case)]}
    return [case for kind in kinds for case in found[kind]]


def groups_after(groups: Groups, kinds: Sequence[Kind], makes: Sequence[str] = ()) -> Groups:
    """Streams and their cases, once a rule has labelled all those of these kinds.

    Args:
        groups: stream -> cases.
        kinds: which are labelled.
        makes: names of further maps that the rule makes of each; their files are not there yet.
    """
    named = {case.name for case in cases_to_label(groups, kinds)}
    made = dict.fromkeys(makes, "made by a rule")
    after: dict[str, list[Case]] = {stream: [] for stream in groups}
    for stream, cases in groups.items():
        for case in cases:
            if case.name in named:
                case = case.model_copy(update={"pseudo": True, "maps": {**case.maps, **made}})
                after["all" if stream == "all" else "labeled"].append(case)
            else:
                after[stream].append(case)
    return after


def with_labels(manifest: Manifest, section: str, labels: Mapping[str, Path]) -> Manifest:
    """A manifest in which cases of a section have other labels.

    Args:
        manifest: of any cases.
        section: one of its lists, such as `training`.
        labels: case name -> label file.

    Raises:
        ManifestError: when a name is none of the section's.
    """
    cases: tuple[Case, ...] = getattr(manifest, section)
    unknown = sorted(set(labels) - {c.name for c in cases})
    if unknown:
        raise ManifestError(f"{section} has no case called {', '.join(unknown)}", path=manifest.path)
    changed = []
    for case in cases:
        if case.name in labels:
            file = manifest.relative(Path(labels[case.name]).absolute(), manifest.path.parent)
            new = case.model_copy(update={"label": file})
            case = new if new.name == case.name else new.model_copy(update={"case": case.name})
        changed.append(case)
    return manifest.model_copy(update={section: tuple(changed)})
