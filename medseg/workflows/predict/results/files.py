"""Results of one case as they get their names: whole, and never over another image's result."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from medseg.errors import DataError
from medseg.portable.io.record import image_of
from medseg.portable.io.write import temporary
from medseg.workflows.predict.results.formats import recorded


class ResultFiles:
    """The files of one case: written aside, and put in place unless another image's result came there meanwhile.

    Other commands that run at the same time may want the same names. So make it before earlier results are looked
    at: what comes between is then either seen by that look or told apart from what was there here.

    Args:
        paths: the files.
        record: what they will say of how they were made.
    """

    def __init__(self, paths: Iterable[Path], record: str) -> None:
        self.record, self.image = record, image_of(record)
        self.before = {path: recorded(path) for path in paths if path.exists()}

    @contextmanager
    def replacing(self, path: Path) -> Iterator[Path]:
        """A file to write, of the same name in a hidden folder beside `path`, that then takes its place.

        Raises:
            DataError: another image's result is there by now.
            OSError: the place is full, read-only or gone.
        """
        with temporary(path, "aside") as folder:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            try:
                yield folder / path.name
                self._put_in_place(folder / path.name, path)
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def _put_in_place(self, new: Path, path: Path) -> None:
        """By a link, which fails where a file is; a look beforehand could miss one that comes meanwhile."""
        if path not in self.before:
            try:
                os.link(new, path)
                return
            except FileExistsError:
                pass
            except OSError:  # a disk without links
                if not path.exists():
                    new.replace(path)
                    return
        found = recorded(path)
        unchanged = path in self.before and found == self.before[path]
        if not unchanged and image_of(found) != self.image:
            what = "was written meanwhile by another command, of another image"
            raise DataError(what, path=path, hint="choose another --output")
        new.replace(path)
