"""What of a bundle is believed: literal configurations of known classes, and weights that fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medseg import instantiate
from medseg.bundle.configs import SCRIPTS
from medseg.errors import BundleError

LARGEST_JSON = 2**22


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
    """Instantiate a part of a bundle's configuration, of which every part is a literal or a class that is known.

    Args:
        node: a part of a bundle's configuration.
        where: its place, for the message.
        path: the file it is from.

    Raises:
        BundleError: an expression, a reference, a class that is not ours, or arguments that are not given here.
    """
    try:
        return instantiate.make(node, where, SCRIPTS)
    except instantiate.Refused as error:
        raise BundleError(error.problem, path=path, hint=error.hint) from error


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
