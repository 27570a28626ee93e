"""What of a bundle is believed: literal configurations of known classes, and weights that fit."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import monai.networks.nets
import monai.transforms
import torch
from torch import Tensor, nn

from medseg.errors import BundleError
from medseg.portable import inferer, loading, nets, resample, views, vnet

LARGEST_JSON = 2**22

OURS: dict[str, Any] = {
    "scripts.vnet.VNet": vnet.VNet,
    "scripts.nets.FirstChannels": nets.FirstChannels,
    "scripts.nets.Planar": nets.Planar,
    "scripts.nets.Views": nets.Views,
    "scripts.resample.Resampled": resample.Resampled,
    "scripts.inferer.SlabInferer": inferer.SlabInferer,
    "scripts.views.ViewsInferer": views.ViewsInferer,
}
STOCK = ("Compose", "LoadImaged", "Orientationd", "NormalizeIntensityd", "ScaleIntensityRanged")
NETS = "monai.networks.nets."
TRANSFORMS = "monai.transforms."
READER = "scripts.loading.VerifiedReader"


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file of bounded size.

    Raises:
        BundleError: missing, too large, or no JSON object.
    """
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise BundleError(f"has {path.stat().st_size} bytes, far more than a configuration", path=path)
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise BundleError(f"cannot be read ({error.strerror})", path=path) from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"is no JSON ({error})", path=path, hint="copy the bundle again") from error
    if not isinstance(content, dict):
        raise BundleError(f"holds a {type(content).__name__}, not an object", path=path)
    return content


def literal(node: Any, where: str, path: Path) -> Any:
    """Instantiate a configuration of which every part is a literal or a class that is known.

    Args:
        node: a part of a bundle's configuration.
        where: its place, for the message.
        path: the file it is from.

    Raises:
        BundleError: an expression, a reference, a class that is not ours, or arguments that it does not take.
    """
    if isinstance(node, dict):
        arguments = {k: literal(v, f"{where}#{k}", path) for k, v in node.items() if k != "_target_"}
        if any(str(key).startswith("_") for key in arguments):
            raise BundleError(f"{where} has the key {next(k for k in arguments if k[0] == '_')!r}", path=path)
        return arguments if "_target_" not in node else _make(node["_target_"], arguments, where, path)
    if isinstance(node, list):
        return [literal(value, f"{where}#{i}", path) for i, value in enumerate(node)]
    if isinstance(node, str) and (node.startswith(("$", "%")) or "@" in node):
        raise BundleError(f"{where} is the expression {node!r}", path=path, hint="medseg takes literal values only")
    return node


def _make(target: Any, arguments: dict[str, Any], where: str, path: Path) -> Any:
    kind = _known(target)
    if kind is None:
        raise BundleError(
            f"{where} wants to make {target!r}, which medseg does not run",
            path=path,
            hint="if you trust it, run the bundle with `python -m monai.bundle run`",
        )
    if kind is monai.transforms.LoadImaged:  # the reader is named by a string that would be imported
        if arguments.get("reader") != READER:
            raise BundleError(f"{where}#reader is {arguments.get('reader')!r}; accepted is {READER}", path=path)
        arguments = {**arguments, "reader": loading.VerifiedReader}
    try:
        return kind(**arguments)
    except MemoryError as error:
        raise BundleError(f"{where} ({target}) does not fit into memory", path=path) from error
    except Exception as error:  # a class of MONAI may raise anything for arguments that it does not take
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BundleError(f"{where} ({target}) cannot be made: {reason}", path=path) from error


def _known(target: Any) -> Callable[..., Any] | None:
    """The class behind a name, if it is one that medseg writes or a network of MONAI."""
    if not isinstance(target, str):
        return None
    if target in OURS:
        return OURS[target]
    if target.startswith(TRANSFORMS) and target.removeprefix(TRANSFORMS) in STOCK:
        return getattr(monai.transforms, target.removeprefix(TRANSFORMS))
    if target.startswith(NETS):
        kind = getattr(monai.networks.nets, target.removeprefix(NETS), None)
        return kind if isinstance(kind, type) and issubclass(kind, nn.Module) else None
    return None


def checked_weights(state: Any, network: Any, path: Path) -> Mapping[str, Tensor]:
    """Weights that fit a network exactly and are finite.

    Raises:
        BundleError: naming the first few that are missing, superfluous, of another shape or kind, or infinite.
    """
    plain = isinstance(state, Mapping) and all(isinstance(v, Tensor) for v in state.values())
    if not plain or not isinstance(network, nn.Module):
        raise BundleError("holds no plain dictionary of weights", path=path)
    wanted = network.state_dict()
    problems = [f"{key} is missing" for key in wanted if key not in state]
    problems += [f"{key} is not the network's" for key in state if key not in wanted]
    for key in wanted.keys() & state.keys():
        if state[key].shape != wanted[key].shape:
            problems.append(f"{key} has the shape {tuple(state[key].shape)}, not {tuple(wanted[key].shape)}")
        elif state[key].dtype.is_floating_point != wanted[key].dtype.is_floating_point:
            problems.append(f"{key} is {state[key].dtype}, not {wanted[key].dtype}")
        elif state[key].is_floating_point() and not bool(torch.isfinite(state[key]).all()):
            problems.append(f"{key} has NaN or infinite values")
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise BundleError("weights do not fit: " + "; ".join(sorted(problems)[:3]) + more, path=path)
    return state
