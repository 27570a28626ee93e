"""How far a training is, and which of its weights were best: what its handlers share and a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg.networks.weight_files import sha256_of
from medseg.progress import say


class RunProgress:
    """How far a run is, shared by its handlers.

    Args:
        best: best validation Dice so far, -1 before the first.
        done: iterations of an earlier run that this one continues.

    Attributes:
        signal: number of the signal by which this process was asked to stop; 0: none.
        stopped: no further step is taken.
        saved: iteration of the last checkpoint; 0: there is none.
        validated: iteration of the last validation.
        best_sha256: of the file of the best weights; None: there is none yet, or an earlier version wrote it.
        unsaved_best: whether no checkpoint has that digest yet.
        head: of the best weights, where validation chooses between heads of the segmenter; None: it does not.
        heads: best validation score of each of them so far.
    """

    def __init__(self, best: float = -1.0, done: int = 0) -> None:
        self.best = best
        self.signal = 0
        self.stopped = False
        self.saved = done
        self.validated = done
        self.best_sha256: str | None = None
        self.unsaved_best = False
        self.head: str | None = None
        self.heads: dict[str, float] = {}

    @classmethod
    def of_checkpoint(cls, state: dict[str, Any]) -> RunProgress:
        """The progress at a checkpoint that `SaveLast` wrote."""
        extra, done = state["extra"], int(state["iteration"])
        progress = cls(float(extra["best"]), done)
        progress.validated = int(extra.get("validated", done))
        progress.best_sha256 = extra.get("best_sha256")
        progress.head, progress.heads = extra.get("head"), dict(extra.get("heads", {}))
        return progress

    def forget_other_best(self, weights: Path) -> None:
        """Begin anew with the best where its weights are not the checkpoint's, as after a kill between the two."""
        if self.best_sha256 is None or (weights.exists() and sha256_of(weights) == self.best_sha256):
            return
        say(f"warning: {weights} is not what the run kept; the best of the validations to come takes its place")
        self.best, self.best_sha256 = -1.0, None
        self.head, self.heads = None, {}
        weights.unlink(missing_ok=True)

    def to_checkpoint(self) -> dict[str, Any]:
        """The values that a checkpoint keeps."""
        kept = {"best": self.best, "validated": self.validated, "best_sha256": self.best_sha256}
        return {**kept, "head": self.head, "heads": self.heads} if self.heads else kept

    def follow_heads(self, scores: Mapping[str, float]) -> None:
        """Keep the best score of each head.

        Args:
            scores: of a validation; none where it does not choose between heads.
        """
        for head, score in scores.items():
            self.heads[head] = max(score, self.heads.get(head, score))
