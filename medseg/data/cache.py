"""Preprocessed volumes on disk: every case is read, checked and resampled once, whatever runs later.

An entry is found by its record: the files it was made from (path, size and time of change, since to read them whole
would take as long as to preprocess them), preprocessing, labels, and the code that did it. So nothing needs to be
invalidated, and two runs may share a folder. Entries appear whole or not at all.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
import zlib
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, replace
from multiprocessing import active_children, get_context
from pathlib import Path

import monai
import torch

from medseg import portable
from medseg.config.pipeline import DataSpec
from medseg.data import cached_volume, preprocess
from medseg.data.cached_volume import CachedVolume
from medseg.data.preprocess import Job
from medseg.data.preprocessing_config import preprocessing
from medseg.errors import DataError, OutputError
from medseg.manifest.classification import class_index
from medseg.manifest.labelling import is_pseudo
from medseg.manifest.manifest import Case, Manifest
from medseg.portable.io.itk_formats import files_of_image
from medseg.records import RECORD, Record
from medseg.stopping import shield_from_interrupts

__all__ = ["CachedVolume", "VolumeCache"]

_FORMAT = 1  # of an entry; raise it with any change that the key below does not see


class VolumeCache:
    """A folder of preprocessed volumes.

    Args:
        folder: made when first needed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder).absolute()

    def prepare(
        self,
        manifest: Manifest,
        cases: Sequence[Case],
        spec: DataSpec,
        *,
        maps: Sequence[str] = (),
        workers: int = 1,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[CachedVolume]:
        """Preprocess what is not here yet.

        Args:
            manifest: that the cases are of. The label of a case in its `unlabeled` list is never opened.
            cases: which ones.
            spec: spacing, intensity rule and labels.
            maps: names of the maps of each case that are wanted too.
            workers: processes to use; with more than 1 the calling script must be importable (the usual
                `if __name__ == "__main__"`).
            progress: called with the number of cases made and to make.

        Returns:
            One volume per case, in order; `pseudo` for those whose case says so by an extra key of that name.

        Raises:
            DataError: a case that cannot be used.
            OutputError: the folder cannot be written.
        """
        jobs = [self._job(manifest, case, spec, maps) for case in cases]
        entries = [self._entry(job) for job in jobs]
        found = {entry.folder: entry.open() for entry in entries}
        missing = {entry.folder: entry for entry in entries if found[entry.folder] is None}
        if missing:
            self._start()
        # closing: else an interruption here would leave the processes at work
        with closing(self._make(list(missing.values()), workers)) as made:
            for done, entry in enumerate(made, 1):
                found[entry.folder] = entry.open()
                if progress:
                    progress(done, len(missing))
        volumes = []
        for case, entry in zip(cases, entries, strict=True):
            volume = found[entry.folder]
            if volume is None:
                raise OutputError("what was written cannot be read back", path=entry.folder, hint="check the disk")
            presence = manifest.presence(case)
            volume = replace(
                volume, pseudo=entry.job.pseudo, covered=entry.job.covered, presence=presence, subject=case.subject
            )
            volumes.append(replace(volume, has_background=spec.has_background))
        return volumes

    def _job(self, manifest: Manifest, case: Case, spec: DataSpec, maps: Sequence[str]) -> Job:
        hidden = any(case is other for other in manifest.unlabeled)
        label = None if hidden else manifest.label(case)
        return Job(
            case.name,
            tuple(manifest.images(case)),
            label,
            spec,
            manifest.ignore_index,
            covered=manifest.covered(case) if label is not None else None,
            maps=tuple((name, manifest.resolve(case.maps[name])) for name in maps),
            image_class=class_index(manifest, case),
            pseudo=is_pseudo(case),
        )

    def _entry(self, job: Job) -> _Entry:
        record = _record(job)
        return _Entry(self.folder / record.key[:32], job, record)

    def _start(self) -> None:
        """Make the folder, and clear away what processes that are gone left half done."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot be made ({error.strerror or error})", path=self.folder) from error
        for left in self.folder.glob(f".{socket.gethostname()}-*-*.tmp"):
            pid = left.name.removesuffix(".tmp").split("-")[-2]
            if not _alive(int(pid)):
                shutil.rmtree(left, ignore_errors=True)

    def _make(self, entries: Sequence[_Entry], workers: int) -> Generator[_Entry, None, None]:
        """Preprocess cases; yields each entry as it is written."""
        if min(workers, len(entries)) <= 1:
            for entry in entries:
                _store(entry)
                yield entry
            return
        pool = ProcessPoolExecutor(min(workers, len(entries)), get_context("spawn"), initializer=_quiet_worker)
        others = set(active_children())
        try:
            with shield_from_interrupts():
                futures = {pool.submit(_store, entry): entry for entry in entries}
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        except BrokenProcessPool as error:
            problem, hint = (
                "a process that preprocessed images has ended",
                "out of memory? Give it fewer cores",
            )
            raise DataError(problem, path=self.folder, hint=hint) from error
        except (KeyboardInterrupt, GeneratorExit):
            # who stops the command does not wait for the cases that they are at: what is left of them is cleared away
            for worker in set(active_children()) - others:
                worker.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _quiet_worker() -> None:
    from medseg.portable.io import monai_reader  # noqa: F401  before MONAI makes its readers, which it silences

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops, and tells


@dataclass(frozen=True)
class _Entry:
    """What there is, or will be, of one case.

    Args:
        folder: named by the record's key.
        job: the case.
        record: what it is made of.
    """

    folder: Path
    job: Job
    record: Record

    def open(self) -> CachedVolume | None:
        """The case; None where it is absent or damaged."""
        job = self.job
        return cached_volume.read(self.folder, job.name, job.images[0], job.is_labelled)


def _record(job: Job) -> Record:
    """What an entry is made of; its file has no folder yet.

    Raises:
        DataError: a file that is not there.
    """
    maps = [name for name, _ in job.maps]
    labels = ["label"] if job.label else []
    keys = ("image", *labels, *maps)
    paths = [*job.images, *([job.label] if job.label else []), *(file for _, file in job.maps)]
    files = [_stamp(file) for path in paths for file in _files_of(path)]
    settings = {
        "format": _FORMAT,
        "versions": [monai.__version__, _code()],
        "preprocessing": preprocessing(job.spec, keys, maps=maps),
        "labels": [job.spec.label_values, job.ignore, job.covered] if job.label else None,
        "channels": len(job.spec.modality),
    }
    if not job.spec.has_background:
        settings["background"] = None
    if job.spec.regions and job.covered is not None:
        settings["regions"] = list(job.spec.members.values())
    if job.image_class is not None:
        settings["image_class"] = job.image_class
    return Record(Path(RECORD), inputs={"files": files}, settings=settings)


def _files_of(path: Path) -> tuple[Path, ...]:
    return files_of_image(path) if path.exists() else (path,)


def _stamp(path: Path) -> tuple[str, int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"cannot be opened ({error.strerror})", path=path, hint="mend the manifest") from error
    return str(path.absolute()), status.st_size, status.st_mtime_ns


def _code() -> int:
    """Checksum of the code that preprocesses, so that a changed installation does not trust old entries."""
    folders = (Path(portable.__file__).parent, Path(__file__).parent)
    files = sorted(file for folder in folders for file in folder.rglob("*.py"))
    return zlib.crc32(b"".join(file.read_bytes() for file in files))


def _store(entry: _Entry) -> None:
    """Preprocess one case into its entry; where two processes make the same, the second finds it done."""
    began = time.monotonic()
    content = preprocess.prepare(entry.job)
    folder, final = entry.folder.parent, entry.folder
    temporary = folder / f".{socket.gethostname()}-{os.getpid()}-{final.name}.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        # of the label itself: where and when its file was written must not change what is learnt from it
        seed = 0 if content.label is None else zlib.crc32(content.label.data)
        cached_volume.write(temporary, content, seed, entry.job.spec.has_background)
        entry.record.file = temporary / RECORD
        entry.record.finish({"seconds": round(time.monotonic() - began, 2)})
        if entry.open() is None:
            shutil.rmtree(final, ignore_errors=True)  # damaged
            temporary.rename(final)
    except (OSError, OutputError) as error:
        if entry.open() is None:
            reason = getattr(error.__cause__ or error, "strerror", None) or error
            raise OutputError(
                f"cannot keep the preprocessed {entry.job.name} ({reason})", path=folder, hint="free some space"
            ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)  # somebody else's process, but a process
    return True
