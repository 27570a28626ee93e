"""`predict`: a bundle and images become label maps on the images' own grids.

A result's own header records the image, the model and the settings it was made with (hashes in `descrip`), so that
a finished case is recognised wherever the file goes, also when several commands share a folder.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from medseg import __version__
from medseg.atomic import check_writable, make_folder, write_whole
from medseg.bundle.ensemble import Ensemble
from medseg.bundle.memory import GIB
from medseg.bundle.runner import BundleRunner
from medseg.engine import distributed
from medseg.errors import DataError, MedsegError, OutputError
from medseg.manifest.fields import unit_of
from medseg.options import api
from medseg.portable.geometry import offset
from medseg.portable.io.find_cases import passed_over
from medseg.portable.io.header import Header
from medseg.portable.io.write import remove_leftovers
from medseg.progress import Count, say
from medseg.records import hash_of
from medseg.stopping import report_stop
from medseg.workflows.predict.case import CasePredictor, fingerprint, record
from medseg.workflows.predict.collect_cases import PROBABILITIES, Item, collect, share
from medseg.workflows.predict.earlier_results import EarlierResults
from medseg.workflows.predict.models import configure_models, open_models
from medseg.workflows.predict.options import PredictOptions
from medseg.workflows.predict.plausibility.check import CaseCheck, ImplausibleError, Plausibility, joined
from medseg.workflows.predict.plausibility.finding import Finding, findings_of
from medseg.workflows.predict.results.files import ResultFiles
from medseg.workflows.predict.results.formats import suffix_of, uncoded
from medseg.workflows.predict.summary import Listener, closing

WORTH_SAYING = 2 * GIB


def run_prediction(options: PredictOptions) -> dict[str, Any]:
    """Segment images with a trained model; results lie on each image's own grid.

    Args:
        options: `inputs` is an image, a folder of images, a DICOM series, a folder of such, or a manifest; `output`
            gets `<case>.nii.gz` (`<case>.png` of PNG and JPEG, or what `format` says), `predict_report.json` and
            `.html`, and if wanted `probabilities/<case>.nii.gz` and `overlays/<case>.png`.

    Returns:
        The report: per case its status, seconds and volumes (pixels of images without a spacing); `failed` lists what
        could not be done and why, `earlier` the cases of earlier commands whose results are in the folder too.

    Raises:
        MedsegError: nothing can be predicted; with `strict` also for the first case that fails.
        Stopped: by a signal; finished results and the report are whole.
    """
    console = Console(stderr=True)
    listener = Listener(console)
    bundles, output = open_models(options.model, listener.show), options.output
    plausibility = Plausibility(bundles, refuse=options.implausible == "refuse")
    items = collect(
        options.inputs, output, channels=len(bundles[0].data.modality), section=options.section, uid=options.series,
        suffix=suffix_of(options.format),
    )  # fmt: skip
    if options.inputs.is_dir() and (others := passed_over(options.inputs)):
        say(f"warning: {options.inputs}: {others}")
    items = share(items, options.shard, options.num_shards)
    earlier = EarlierResults(output)
    earlier.refuse_all(items, probabilities=options.probabilities)
    device = distributed.setup(options.device)
    about_models, rules = configure_models(
        bundles, options, listener.show, unit_of(path for item in items for path in item.images)
    )
    for note in plausibility.notes:
        listener.show(note)
    make_folder(output / PROBABILITIES if options.probabilities else output)
    check_writable(output)
    for folder in (output, output / PROBABILITIES):
        remove_leftovers(folder)
    report: dict[str, Any] = {
        "medseg_version": __version__,
        **about_models,
        "device": str(device),
        "cases": [],
        "failed": [],
        "interrupted": True,
        "earlier": [],
    }
    runner = BundleRunner(bundles[0], device) if len(bundles) == 1 else Ensemble(bundles, device, rules)
    predictor = CasePredictor(runner, output, probabilities=options.probabilities, overlay=options.overlay)
    if options.format == "dicom-seg" and (names := uncoded(predictor.data.structures.values())):
        listener.say(f"no SNOMED code is known for {', '.join(names)}: coded as Tissue")
    run = _Run(predictor, plausibility, listener, report, earlier, options)
    try:
        with listening(listener):
            run.all(items)
        report["interrupted"] = False
    finally:
        report["earlier"] = EarlierResults(output).others(options.report_name, report["cases"])
        write_whole(output / options.report_name, json.dumps(report, indent=2, allow_nan=False) + "\n")
    if options.report:
        from medseg.workflows.predict.results.page import write_page  # matplotlib takes seconds to import

        page = write_page((output / options.report_name).with_suffix(".html"), report, bundles[0].data)
        listener.show(f"report: {page}")
    for line in closing(report, output, options.report_name):
        listener.show(line)
    return report


predict = api(PredictOptions, run_prediction)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Warnings of the inferer go to a listener, and nowhere else."""
    logger = logging.getLogger("medseg.portable")
    logger.addHandler(listener)
    before, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.removeHandler(listener)
        logger.propagate = before


class _Run:
    """The cases in a row, with a bar, entering each into the report."""

    def __init__(
        self,
        predictor: CasePredictor,
        plausibility: Plausibility,
        listener: Listener,
        report: dict,
        earlier: EarlierResults,
        options: PredictOptions,
    ) -> None:
        self.predictor, self.listener, self.report, self.earlier = predictor, listener, report, earlier
        self.plausibility = plausibility
        self.overwrite, self.strict, self.probabilities = options.overwrite, options.strict, options.probabilities
        labels_depend_on = {key: value for key, value in report["settings"].items() if key != "probabilities"}
        self.setting = hash_of([report["model_sha256"], labels_depend_on])

    def all(self, items: list[Item]) -> None:
        """Do them; a case that fails is entered and passed over, unless `strict`."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        console = self.listener.console
        count = Count("predicting", total=len(items))
        with (
            report_stop(count.where, "finished results are kept"),
            Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar,
        ):
            cases = bar.add_task("cases", total=len(items))
            windows = bar.add_task("windows", total=None)
            for item in items:
                bar.update(cases, description=item.name)
                bar.reset(windows, total=None)

                def progress(done: int, total: int) -> None:
                    bar.update(windows, completed=done, total=total)

                self._one(item, progress)
                bar.advance(cases)
                count.done += 1
                if not console.is_terminal and (line := count.line()):
                    say(line)

    def _one(self, item: Item, progress: Any) -> None:
        entry: dict[str, Any] = {"case": item.name, "images": [str(path) for path in item.images]}
        self.listener.lines.clear()
        started = time.perf_counter()
        try:
            entry.update(self._done_or_predicted(item, progress))
        except OutputError:
            raise  # the place of the results concerns every case
        except MedsegError as error:
            self.report["failed"].append({"case": item.name, "error": str(error)})
            entry["status"] = "failed"
            if isinstance(error, ImplausibleError):
                entry["implausible"] = [finding.plain() for finding in error.findings]
            if self.strict:
                raise
            self.listener.show(f"failed: {error}")  # now: the next hundred may fail of the same
        if instead := entry.pop("instead", None):  # of the format that was asked for
            self.report["failed"].append({"case": item.name, "error": instead})
            if self.strict:
                raise DataError(instead)
            self.listener.show(f"failed: {instead}")
        entry["seconds"] = round(time.perf_counter() - started, 3)
        entry["warnings"] = list(self.listener.lines)
        self.report["cases"].append(entry)

    def _done_or_predicted(self, item: Item, progress: Any) -> dict[str, Any]:
        headers = self.predictor.headers(item)
        digest = fingerprint(item)
        line = record(digest, self.setting)
        entry = {"result": item.result, "input": item.identity, "image_sha256": digest}
        if not self.overwrite and self.predictor.is_done(item, line):
            return self._skipped(item, entry)
        item, problem = self.predictor.in_a_format_that_holds(item, line)
        if problem is not None:
            if self.strict:
                raise problem
            entry["result"], entry["instead"] = item.result, f"{problem}; its labels are in {item.result}"
            if not self.overwrite and self.predictor.is_done(item, line):
                return self._skipped(item, entry)
        files = self.predictor.files_of(item, line)  # before the look at earlier results, so that nothing slips between
        self.earlier.refuse(item, probabilities=self.probabilities)
        self._tell_headers(headers)
        return {"status": "done", **entry, **self._predicted(item, headers, files, progress)}

    def _tell_headers(self, headers: list[Header]) -> None:
        for header in headers:
            for warning in header.warnings:
                self.listener.say(f"{header.path}: {warning}")
            found = offset(headers[0], header)
            if found.is_taken and (note := found.note(f"the first channel {headers[0].path.name}")):
                self.listener.say(f"{header.path}: {note}")

    def _predicted(self, item: Item, headers: list[Header], files: ResultFiles, progress: Any) -> dict[str, Any]:
        """Predict a case; returns its volumes and what is odd about it."""
        needed = self.predictor.runner.check_memory(headers, item.images[0])
        if needed > WORTH_SAYING:
            self.listener.show(f"{item.name}: needs about {needed / GIB:.1f} GiB")
        try:
            check = self._begin_check(item, headers)
            sizes = self.predictor.run(item, files, progress, check)
        except ImplausibleError as error:
            if (self.predictor.output / item.result).exists():
                raise ImplausibleError(error.findings, item.images[0], stands=True) from error
            raise
        return {**self._tell(item, check.findings), **sizes}

    def _skipped(self, item: Item, entry: dict[str, Any]) -> dict[str, Any]:
        """A case that an earlier command did, with what that found odd about it."""
        before = self.earlier.entry_of(item, entry["image_sha256"], self.report["model_sha256"])
        findings = findings_of(before.get("implausible"))
        if findings and self.plausibility.refuse:
            raise ImplausibleError(findings, item.images[0], stands=True)
        return {"status": "skipped", **entry, **self._tell(item, findings)}

    def _tell(self, item: Item, findings: Sequence[Finding]) -> dict[str, Any]:
        """Warn of what is odd; returns what the report says of it."""
        if not findings:
            return {}
        self.listener.say(f"{item.images[0]}: {joined(findings)}")
        return {"implausible": [finding.plain() for finding in findings]}

    def _begin_check(self, item: Item, headers: list[Header]) -> CaseCheck:
        modalities = (item.series.modality,) if item.dicom else item.modalities
        return self.plausibility.case(headers, headers[0].path, modalities)
