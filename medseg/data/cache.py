"""Preprocessed volumes on disk: every case is read, checked and resampled once, whatever runs later.

An entry is found by what it was made from: files (path, size, time of change), preprocessing, labels, and the
code that did it. So nothing needs to be invalidated, and two runs may share a folder. Entries appear whole
or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import zlib
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from dataclasses import replace
from multiprocessing import active_children, get_context
from pathlib import Path

import monai
import torch

import medseg
from medseg import portable
from medseg.config import DataSpec
from medseg.data import cached_volume, preprocess
from medseg.data.cached_volume import CachedVolume
from medseg.data.preprocess import Job
from medseg.data.preprocessing_config import preprocessing
from medseg.errors import DataError, OutputError
from medseg.manifest.manifest import Case, Manifest
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
        workers: int = 1,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[CachedVolume]:
        """Preprocess what is not here yet.

        Args:
            manifest: that the cases are of. The label of a case in its `unlabeled` list is never opened.
            cases: which ones.
            spec: spacing, intensity rule and labels.
            workers: processes to use; with more than 1 the calling script must be importable (the usual
                `if __name__ == "__main__"`).
            progress: called with the number of cases made and to make.

        Returns:
            One volume per case, in order; `pseudo` for those whose case says so by an extra key of that name.

        Raises:
            DataError: a case that cannot be used.
            OutputError: the folder cannot be written.
        """
        jobs = [self._job(manifest, case, spec) for case in cases]
        keys = [_key(job) for job in jobs]
        found = {key: self._open(key, job) for key, job in zip(keys, jobs, strict=True)}
        missing = {key: job for key, job in zip(keys, jobs, strict=True) if found[key] is None}
        if missing:
            self._start()
        with closing(self._make(missing, workers)) as made:  # else an interruption here would leave its workers at it
            for done, key in enumerate(made, 1):
                found[key] = self._open(key, missing[key])
                if progress:
                    progress(done, len(missing))
        pairs = zip(cases, keys, strict=True)
        return [replace(self._sure(found[key], key), pseudo=bool(getattr(c, "pseudo", False))) for c, key in pairs]

    def _job(self, manifest: Manifest, case: Case, spec: DataSpec) -> Job:
        hidden = any(case is other for other in manifest.unlabeled)
        label = None if hidden else manifest.label(case)
        return Job(case.name, tuple(manifest.images(case)), label, spec, manifest.ignore_index)

    def _open(self, key: str, job: Job) -> CachedVolume | None:
        return cached_volume.read(self.folder / key, job.name, job.images[0], job.label is not None)

    def _sure(self, found: CachedVolume | None, key: str) -> CachedVolume:
        if found is None:
            raise OutputError("what was written cannot be read back", path=self.folder / key, hint="check the disk")
        return found

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

    def _make(self, jobs: dict[str, Job], workers: int) -> Generator[str, None, None]:
        """Preprocess the jobs; yields each key as its entry is written."""
        if min(workers, len(jobs)) <= 1:
            for key, job in jobs.items():
                _store(self.folder, key, job)
                yield key
            return
        pool = ProcessPoolExecutor(min(workers, len(jobs)), get_context("spawn"), initializer=_quiet_worker)
        others = set(active_children())
        try:
            with shield_from_interrupts():
                futures = {pool.submit(_store, self.folder, key, job): key for key, job in jobs.items()}
            for future in as_completed(futures):
                future.result()
                yield futures[future]
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


def _key(job: Job) -> str:
    """Content address of an entry, from the headers of what it is made of.

    Raises:
        DataError: a file that is not there.
    """
    keys = ("image",) if job.label is None else ("image", "label")
    made_of = {
        "format": _FORMAT,
        "versions": [medseg.__version__, monai.__version__, _code()],
        "files": [_stamp(path) for path in (*job.images, *([job.label] if job.label else []))],
        "preprocessing": preprocessing(job.spec, keys),
        "labels": [job.spec.label_values, job.ignore] if job.label else None,
        "channels": len(job.spec.modality),
    }
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:32]


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


def _store(folder: Path, key: str, job: Job) -> None:
    """Preprocess one case into its entry; where two processes make the same, the second finds it done."""
    content = preprocess.prepare(job)
    temporary = folder / f".{socket.gethostname()}-{os.getpid()}-{key}.tmp"
    final = folder / key
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        # of the label itself: where and when its file was written must not change what is learnt from it
        cached_volume.write(temporary, content, seed=0 if content.label is None else zlib.crc32(content.label.data))
        if cached_volume.read(final, job.name, job.images[0], job.label is not None) is None:
            shutil.rmtree(final, ignore_errors=True)  # damaged
            temporary.rename(final)
    except OSError as error:
        if cached_volume.read(final, job.name, job.images[0], job.label is not None) is None:
            raise OutputError(
                f"cannot keep the preprocessed {job.name} ({error.strerror})",
                path=folder,
                hint="free some space",
            ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)  # somebody else's process, but a process
    return True
