"""Bundles of one view each become the bundle of all views."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from medseg.bundle.bundle import open_bundle, write_bundle
from medseg.bundle.configs import SCRIPTS
from medseg.bundle.safe_load import read_json
from medseg.bundle.swap import swap_folder
from medseg.config.instantiate import current_names
from medseg.config.pipeline import DataSpec
from medseg.errors import BundleError, OutputError
from medseg.portable.io.write import temporary_name
from medseg.portable.networks.adapters import Views
from medseg.records import Record, digest_of


def join_bundles(out: Path, parts: Mapping[str, Path], *, data: DataSpec, name: str, fusion: str = "vote") -> Path:
    """Put the networks of several views into one bundle.

    Args:
        out: folder of the new bundle.
        parts: view -> bundle of one network.
        data: what all views share, as planned: its patch has the length of every axis.
        name: of the pipeline.
        fusion: of `portable.inference.multi_view.FUSIONS`.

    Returns:
        `out`.

    Raises:
        BundleError: a part that is none, or of other data.
        OutputError: the folder cannot be written.
    """
    networks: dict[str, nn.Module] = {}
    definitions: dict[str, Any] = {}
    independent = []
    for view, path in parts.items():
        bundle = open_bundle(path)
        if bundle.views or bundle.data.view != view:
            found = ", ".join(bundle.views) or bundle.data.view
            raise BundleError(f"is of the view {found}, not {view}", path=bundle.path)
        if (bundle.data.spacing_mm, bundle.data.labels) != (data.spacing_mm, data.labels):
            raise BundleError("has another spacing or other labels than the other views", path=bundle.path)
        networks[view] = bundle.network
        independent.append(bundle.independent)
        definitions[view] = _network_def(bundle.path)
    are_independent = all(independent)
    definition: dict[str, Any] = {"_target_": "medseg.portable.networks.adapters.Views", "networks": definitions}
    if are_independent:
        definition["independent"] = True
    return write_bundle(
        out,
        Views(networks, are_independent),
        network_def=definition,
        data=data,
        name=name,
        fusion=fusion,
        independent=are_independent,
    )


def _network_def(bundle: Path) -> Any:
    """The definition of a bundle's network, in the names of the scripts that are written beside it now."""
    config = read_json(bundle / "configs" / "inference.json")
    return current_names(config["network_def"], SCRIPTS)


def write_joint_bundle(single: Mapping[str, Path], out: Path, data: DataSpec, *, name: str, fusion: str) -> None:
    """Write one bundle of the networks of several, unless it is there already; of one it is a copy.

    Args:
        single: view -> bundle of its network.
        out: where the common bundle goes.
        data: what the plan decided for all views.
        name: of the pipeline.
        fusion: of `portable.inference.multi_view.FUSIONS`.

    Raises:
        MedsegError: a bundle that cannot be used, or a place that cannot be written.
    """
    networks = {view: digest_of(path) for view, path in single.items()}
    file = out.with_name("bundle.json")
    record = Record(file, inputs={"networks": networks}, settings={"fusion": fusion}, products=[out])
    if record.notes() is not None:
        return
    record.begin()
    if len(single) == 1:
        (only,) = single.values()
        copy_bundle(only, out)
    else:
        join_bundles(out, single, data=data, name=name, fusion=fusion)
    record.finish()


def copy_bundle(source: Path, target: Path) -> None:
    """Put a copy of a bundle where there may be an older one; it appears whole.

    Raises:
        OutputError: it cannot be written.
    """
    temporary = temporary_name(target, "copy")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(source, temporary)
        swap_folder(temporary, target)
    except (OSError, shutil.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"cannot be written ({reason})", path=target) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
