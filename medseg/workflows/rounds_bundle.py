"""Bundles of rounds: the networks of all views in one, and the last one where the run's product is."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from medseg import bundle_views
from medseg.config import DataSpec
from medseg.errors import OutputError
from medseg.workflows.pieces import Piece, digest_of


def write_joint_bundle(single: Mapping[str, Path], out: Path, data: DataSpec, *, name: str, fusion: str) -> None:
    """Write one bundle of the networks of several, unless it is there already; of one it is a copy.

    Args:
        single: view -> bundle of its network.
        out: where the common bundle goes.
        data: what the plan decided for all views.
        name: of the pipeline.
        fusion: of `portable.views.FUSIONS`.

    Raises:
        MedsegError: a bundle that cannot be used, or a place that cannot be written.
    """
    made_of = {"networks": {view: digest_of(path) for view, path in single.items()}, "fusion": fusion}
    piece = Piece(out.with_name("bundle.json"), made_of, [out])
    if piece.notes() is not None:
        return
    piece.begin()
    if len(single) == 1:
        copy_bundle(next(iter(single.values())), out)
    else:
        bundle_views.join_bundles(out, single, data=data, name=name, fusion=fusion)
    piece.finish()


def copy_bundle(source: Path, target: Path) -> None:
    """Put a copy of a bundle where there may be an older one; it appears whole.

    Raises:
        OutputError: it cannot be written.
    """
    temporary = target.with_name(f".{target.name}.copy.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(source, temporary)
        shutil.rmtree(target, ignore_errors=True)
        temporary.replace(target)
    except (OSError, shutil.Error) as error:
        raise OutputError(f"cannot be written ({getattr(error, 'strerror', None) or error})", path=target) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
