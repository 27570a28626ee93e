"""What raters never drew: everything, a structure that the others have, or one that few have."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from medseg.consensus.statistics.exchanged_values import MOST
from medseg.consensus.statistics.oddity import Oddity
from medseg.consensus.statistics.panel import Panel, join_names
from medseg.consensus.study import Study


def find_empty(panel: Panel) -> list[Oddity]:
    """Raters who drew nothing although others drew something in what these annotated; [] where nobody drew anything."""
    drew = panel.drew().any(axis=1)
    empty = []
    for r in np.flatnonzero(~drew):
        if any(_left_empty(panel, int(r), c).any() for c in range(1, len(panel.classes))):
            empty.append(panel.names[r])
    if not empty:
        return []
    others = join_names([panel.names[s] for s in np.flatnonzero(drew)])
    return [Oddity("empty", tuple(empty), (), f"{join_names(empty)} drew nothing; {others} did.")]


def classes_not_looked_for(study: Study) -> list[tuple[str, str]]:
    """Names of rater and class where it seems that the rater did not look for the class."""
    found = []
    for oddity in find_not_looked_for(Panel.of(study)):
        found += [(oddity.raters[0], name) for name in oddity.classes]
    return found


def find_not_looked_for(panel: Panel) -> list[Oddity]:
    """Classes that a rater never drew although at least two others, and half of the others, did.

    Most of their extent must be annotated by this rater, and only those others count who drew it or left it empty.
    """
    sizes, found = panel.sizes(), []
    for r, name in enumerate(panel.names):
        if not sizes[r, 1:].any():
            continue  # an empty annotation has its own sentence
        drawn_by: dict[str, list[str]] = {}
        for c in range(1, len(panel.classes)):
            drawers = np.flatnonzero(_left_empty(panel, r, c))
            silent = len(_who_left_empty(panel, c)) - 1
            if sizes[r, c] == 0 and drawers.size >= max(2, silent):
                drawn_by[panel.classes[c]] = [panel.names[s] for s in drawers]
        if drawn_by:
            found.append(_names_not_looked_for(name, drawn_by))
    return found


def _names_not_looked_for(name: str, drawn_by: dict[str, list[str]]) -> Oddity:
    """The sentence on the structures, each with who drew it, that one rater never drew."""
    titles = tuple(drawn_by)
    # to be copied into a shell
    asked = " ".join(f"--partial-protocol {shlex.quote(f'{name}:{title}')}" for title in titles)
    one = len(titles) == 1
    others = f"{join_names(drawn_by[titles[0]])} did" if one else "two others or more did"
    no_vote = "it is no vote against it" if one else "they are no votes"
    text = (
        f"{name} never drew {join_names(titles)}, which {others}. Not looked for? Then give {asked} (or auto), so that "
        f"{no_vote}."
    )
    return Oddity("not looked for", (name,), titles, text)


def notes_on_few(panel: Panel, found: Sequence[Mapping[str, Any]], in_consensus: Collection[str]) -> list[str]:
    """A line for each structure that one rater alone drew, or fewer than those who left it empty could overlook.

    Args:
        panel: of the raters.
        found: what is odd about them, of `find_oddities`; a structure that is explained there is left out.
        in_consensus: names of the structures that the consensus has.
    """
    explained: set[str] = set()
    for oddity in found:
        if oddity["kind"] in ("exchanged", "nothing in common", "same structure", "not looked for"):
            explained.update(oddity["classes"])
    drew_anything = np.asarray(panel.drew().any(axis=1))
    notes = []
    for c, title in enumerate(panel.classes):
        without = [r for r in _who_left_empty(panel, c) if drew_anything[r]]
        if c == 0 or title in explained or not without:
            continue
        drawers = [panel.names[r] for r in np.flatnonzero(panel.sizes()[:, c])]
        if len(drawers) > 1:
            told = f"{len(without)} of {len(panel.names)} did not draw {title}, which {join_names(drawers)} did"
        else:
            told = f"only {drawers[0]} drew {title}"
        notes.append(told if title in in_consensus else f"{told}; it is not in the consensus")
    return notes


def _who_left_empty(panel: Panel, c: int) -> list[int]:
    """Raters without a class that others drew in what these annotated."""
    return [r for r in range(len(panel.names)) if np.any(_left_empty(panel, r, c))]


def _left_empty(panel: Panel, r: int, c: int) -> np.ndarray:
    """`(R,)` bool: others most of whose class c is background to rater r, who has no such class."""
    drawn = panel.sizes()[:, c]
    left_empty: np.ndarray = np.asarray(panel.overlap[r, :, 0, c] > MOST * drawn)
    return left_empty & (drawn > 0) & (drawn[r] == 0)
