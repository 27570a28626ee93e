"""Bundles of one view each become the bundle of all views."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from medseg.bundle import open_bundle, write_bundle
from medseg.bundle_open import read_json
from medseg.config import DataSpec
from medseg.errors import BundleError
from medseg.portable.nets import Views


def join_bundles(out: Path, parts: Mapping[str, Path], *, data: DataSpec, name: str, fusion: str = "vote") -> Path:
    """Put the networks of several views into one bundle.

    Args:
        out: folder of the new bundle.
        parts: view -> bundle of one network.
        data: what all views share, as planned: its patch has the length of every axis.
        name: of the pipeline.
        fusion: of `portable.views.FUSIONS`.

    Returns:
        `out`.

    Raises:
        BundleError: a part that is none, or of other data.
        OutputError: the folder cannot be written.
    """
    opened = {view: open_bundle(path) for view, path in parts.items()}
    for view, bundle in opened.items():
        if bundle.views or bundle.data.view != view:
            found = ", ".join(bundle.views) or bundle.data.view
            raise BundleError(f"is of the view {found}, not {view}", path=bundle.path)
        if (bundle.data.spacing_mm, bundle.data.labels) != (data.spacing_mm, data.labels):
            raise BundleError("has another spacing or other labels than the other views", path=bundle.path)
    network = Views({view: bundle.network for view, bundle in opened.items()})
    definitions = {
        view: read_json(bundle.path / "configs" / "inference.json")["network_def"] for view, bundle in opened.items()
    }
    definition = {"_target_": "medseg.portable.nets.Views", "networks": definitions}
    return write_bundle(out, network, network_def=definition, data=data, name=name, fusion=fusion)
