"""The list of studies follows its folder, whatever happens in between."""

from __future__ import annotations

import logging
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from servers import PATIENCE

from medseg.serve import standins

PATH = list(sys.path)
sys.path[:0] = standins.folders()

from medseg.serve.datastores import following  # noqa: E402
from medseg.serve.datastores.local import CheckedLocal  # noqa: E402

# watchdog tells of a folder that is watched a second time, which it is when it was removed and made anew in between
pytestmark = pytest.mark.filterwarnings("ignore:Callback with id .* already exists for watch:RuntimeWarning")

# other tests of this process ask which modules stand-ins are needed for
sys.path[:] = PATH
for loaded in [name for name in sys.modules if name.partition(".")[0] in standins.NAMES]:
    del sys.modules[loaded]


@pytest.fixture
def store(tmp_path):
    """A watched folder with two files in the place of images."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.nii.gz").touch()
    watched = CheckedLocal(str(tmp_path), extensions=("*.nii.gz",), auto_reload=True)
    yield watched
    watched._observer.stop()
    watched._observer.join()


def wait_for(becomes_true: Callable[[], bool]) -> None:
    until = time.monotonic() + 20 * PATIENCE
    while not becomes_true():
        assert time.monotonic() < until
        time.sleep(0.05)


def failing(times: int) -> Callable[..., dict[str, str]]:
    """MONAI Label's listing of a folder, but for the first times, at which the folder of a tag is gone."""
    stock, left = CheckedLocal._list_files, [times]

    def listed(self: CheckedLocal, path: str, patterns: tuple[str, ...]) -> dict[str, str]:
        if left[0] and "labels" in path:
            left[0] -= 1
            raise FileNotFoundError(path)
        return stock(self, path, patterns)

    return listed


def test_a_folder_that_is_gone_while_it_is_listed_does_not_end_the_watch(store, monkeypatch):
    monkeypatch.setattr(CheckedLocal, "_list_files", failing(2))
    (Path(store._datastore_path) / "c.nii.gz").touch()
    wait_for(lambda: sorted(store.list_images()) == ["a", "b", "c"])
    (Path(store._datastore_path) / "a.nii.gz").unlink()
    wait_for(lambda: sorted(store.list_images()) == ["b", "c"])


def test_a_folder_that_stays_as_it_is_is_told_in_the_log(store, monkeypatch, caplog):
    monkeypatch.setattr(following, "LOOKS", (0.0, 0.0))
    monkeypatch.setattr(CheckedLocal, "_list_files", failing(2))
    with caplog.at_level(logging.ERROR):
        (Path(store._datastore_path) / "c.nii.gz").touch()
        wait_for(lambda: "the list of studies was not renewed" in caplog.text)
    assert sorted(store.list_images()) == ["a", "b"]
    (Path(store._datastore_path) / "d.nii.gz").touch()
    wait_for(lambda: sorted(store.list_images()) == ["a", "b", "c", "d"])


def test_a_tag_that_is_removed_as_a_folder(store):
    """The event that ended the watch: a folder with labels is removed beside a study."""
    folder = Path(store._datastore_path)
    for turn in range(10):
        labels = folder / "labels" / "original"
        labels.mkdir(parents=True, exist_ok=True)
        (labels / "a.nii.gz").touch()
        (folder / f"more{turn}.nii.gz").touch()
        shutil.rmtree(labels)
        (folder / f"more{turn}.nii.gz").unlink()
    (folder / "last.nii.gz").touch()
    wait_for(lambda: sorted(store.list_images()) == ["a", "b", "last"])


def test_a_reader_sees_all_studies_while_the_list_is_made_anew(store):
    seen: set[tuple[str, ...]] = set()
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            seen.add(tuple(sorted(store.list_images())))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(100):
        store.refresh()
    ended.set()
    reader.join()
    assert seen == {("a", "b")}
