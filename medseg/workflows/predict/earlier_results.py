"""Results that are in a folder already, and of which images: no image's result takes the place of another's.

An image is the same if its files are where they were, as the reports of earlier commands say, or if their content is,
as the results' own headers say. So an image that was exported anew is predicted anew, also from another disk. What a
header says, and why it is no file beside the result, is in `medseg.portable.io.record`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

from medseg.errors import ConfigError, DataError
from medseg.portable.io.record import image_of
from medseg.records import read_record
from medseg.workflows.predict.case import fingerprint
from medseg.workflows.predict.collect_cases import Item, targets
from medseg.workflows.predict.results.formats import recorded

REPORTS = "predict_report*.json"


class EarlierResults:
    """What earlier commands left in a folder.

    Args:
        output: the folder; it need not exist.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.reports = {path.name: _entries(path) for path in sorted(output.glob(REPORTS))}
        self.cases: dict[str, list[dict[str, Any]]] = {}
        for entry in chain.from_iterable(self.reports.values()):
            self.cases.setdefault(entry["case"], []).append(entry)

    def refuse_all(self, items: Iterable[Item], *, probabilities: bool) -> None:
        """`refuse` of every case, before any work is done; other faults are told when each is predicted."""
        for item in items:
            with suppress(DataError):
                self.refuse(item, probabilities=probabilities)

    def refuse(self, item: Item, *, probabilities: bool) -> None:
        """See that none of the files that a case would write is the result of another image.

        Args:
            item: the case.
            probabilities: whether these are written too.

        Raises:
            ConfigError: one of them is, or does not say of which image it was made.
            DataError: the image cannot be read.
        """
        for path in targets(item, self.output, probabilities=probabilities):
            is_an_input = path.exists() and item.reads(path)  # which `collect` refuses
            if path.exists() and not is_an_input:
                self._refuse(item, path)

    def _refuse(self, item: Item, path: Path) -> None:
        made_of = image_of(recorded(path))
        inputs = []
        for entry in self.cases.get(item.name, []):
            # else the result was replaced since by something else
            if made_of is None or entry["image_sha256"].startswith(made_of):
                inputs.append(entry["input"])
        if any(set(files) == set(item.identity) for files in inputs):
            return
        if made_of is not None and fingerprint(item).startswith(made_of):
            return
        mine = " and ".join(item.identity)
        if inputs:
            what = f"is the result of {' and '.join(inputs[0])} and not of {mine}"
        elif made_of is not None:
            what = f"is the result of another image than {mine}"
        else:
            what = f"is there already and does not say that it was made of {mine}"
        raise ConfigError(what, path=path, hint="choose another --output")

    def entry_of(self, item: Item, image_sha256: str, model_sha256: str) -> Mapping[str, Any]:
        """What an earlier report says of a result of the same image and model; empty where none does.

        Args:
            item: the case.
            image_sha256: of its image.
            model_sha256: of the model, or of all together.
        """
        wanted = (item.result, image_sha256, model_sha256)
        for entry in reversed(self.cases.get(item.name, [])):
            if (entry["result"], entry["image_sha256"], entry["model_sha256"]) == wanted:
                return entry
        return {}

    def others(self, report: str, cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Entries of an earlier report that are true still and are none of the new one's cases.

        Args:
            report: file name, the same for both.
            cases: entries of the new one.
        """
        replaced = {entry.get("result") for entry in cases}
        kept = []
        for entry in self.reports.get(report, []):
            if entry["result"] not in replaced and (self.output / entry["result"]).exists():
                kept.append(entry)
        return kept


def _entries(report: Path) -> list[dict[str, Any]]:
    """Cases of a report that have a result, each with the model that made it; none of a file that is no report."""
    content = read_record(report)
    entries = []
    with suppress(LookupError, TypeError):  # results tell of their images themselves
        of_model = {"model_sha256": content["model_sha256"], "settings": content["settings"]}
        for entry in [*content["cases"], *content.get("earlier", ())]:
            if {"case", "result", "input", "image_sha256"} <= set(entry):
                entries.append({**of_model, **entry})
    return entries
