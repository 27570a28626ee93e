"""Reading a bundle without running anything of it: literal configurations of listed classes, and weights that fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from medseg.bundle.configs import SCRIPTS
from medseg.config import instantiate
from medseg.errors import BundleError

LARGEST_JSON = 2**22  # bytes
SHOWN_PROBLEMS = 3


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


def reason_of(error: KeyError | TypeError | ValueError) -> str:
    """Why a description is none, in a few words: the first value that is not as it should be, or a missing key."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        return f"{place}: {first['msg']}"
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return str(error)


def literal(node: Any, where: str, path: Path) -> Any:
    """Instantiate a part of a bundle's configuration, of which every part is a literal or one of the listed classes.

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
    plain = isinstance(state, Mapping) and all(isinstance(value, Tensor) for value in state.values())
    if not plain or not isinstance(network, nn.Module):
        raise BundleError("holds no plain dictionary of weights", path=path)
    wanted = network.state_dict()
    problems = [f"{key} is missing" for key in wanted if key not in state]
    problems += [f"{key} is not the network's" for key in state if key not in wanted]
    for key in wanted.keys() & state.keys():
        problem = _misfit(state[key], wanted[key])
        if problem is not None:
            problems.append(f"{key} {problem}")
    if problems:
        text = "; ".join(sorted(problems)[:SHOWN_PROBLEMS])
        if len(problems) > SHOWN_PROBLEMS:
            text += f" and {len(problems) - SHOWN_PROBLEMS} more"
        raise BundleError(f"weights do not fit: {text}", path=path)
    return state


def _misfit(found: Tensor, wanted: Tensor) -> str | None:
    """Why a weight cannot take the place of a network's; None where it can."""
    if found.shape != wanted.shape:
        return f"has the shape {tuple(found.shape)}, not {tuple(wanted.shape)}"
    if found.is_floating_point() != wanted.is_floating_point():
        return f"is {found.dtype}, not {wanted.dtype}"
    if found.is_floating_point() and not bool(torch.isfinite(found).all()):
        return "has NaN or infinite values"
    return None
