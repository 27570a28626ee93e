"""Checkpoints that survive a kill at any moment and continue bit for bit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from medseg.atomic import replacing
from medseg.engine.trainer import MethodTrainer
from medseg.errors import CheckpointError, OutputError
from medseg.networks.weight_files import UnreadableWeights, load_tensors, sha256_of


def save_atomic(state: Any, path: Path) -> None:
    """`torch.save`, whole or not at all.

    Raises:
        OutputError: the disk is full or the folder cannot be written; the old file is still there.
    """
    try:
        with replacing(path) as stream:
            torch.save(state, stream)
    except RuntimeError as error:  # how torch reports a full disk, in words of its own code
        reason = str(error).splitlines()[0]
        if "inline_container" in reason or "PytorchStreamWriter" in reason:
            reason = "the disk is full, or the file would be larger than is allowed"
        raise OutputError(f"cannot be written ({reason})", path=path) from error


def read(path: Path) -> dict[str, Any]:
    """Load a checkpoint on the CPU without running anything from it.

    Raises:
        CheckpointError: missing, truncated or no checkpoint of medseg.
    """
    try:
        state = load_tensors(path)
    except FileNotFoundError:
        raise CheckpointError("no checkpoint to resume from", path=path, hint="start without --resume") from None
    except UnreadableWeights as error:
        hint = "copy it again, or begin the run again in another --output"
        raise CheckpointError(f"damaged or no checkpoint ({error})", path=path, hint=hint) from error
    is_ours = isinstance(state, dict) and "method" in state and "iteration" in state
    if not is_ours:
        raise CheckpointError("not a checkpoint of a medseg run", path=path)
    return state


def read_weights(path: Path, network: nn.Module, recorded: str | None = None) -> None:
    """Put the weights that `save_atomic` kept of a network into it.

    Args:
        path: of the file.
        network: that they are of.
        recorded: the SHA-256 of the file when it was written; None: not known.

    Raises:
        CheckpointError: missing, damaged, exchanged, of another network, or with NaN.
    """
    try:
        state = load_tensors(path)
        if recorded is not None and (found := sha256_of(path)) != recorded:
            problem = f"is not what the run kept: SHA-256 {found[:12]}, recorded is {recorded[:12]}"
            raise CheckpointError(problem, path=path, hint="put that file back, or begin the run again")
        network.load_state_dict(state)
    except FileNotFoundError:
        raise CheckpointError("the weights that the run kept are gone", path=path) from None
    except UnreadableWeights as error:
        raise CheckpointError(f"cannot be read back ({error})", path=path) from error
    except (RuntimeError, TypeError, AttributeError) as error:
        detail = " ".join(str(error).split())[:160]
        raise CheckpointError(f"holds the weights of another network ({detail})", path=path) from error
    if not all_finite(state):
        raise CheckpointError("has NaN or infinite weights", path=path)


def random_state() -> dict[str, Any]:
    """States of every generator that a step may draw from, as tensors and plain numbers."""
    _, keys, position, has_gauss, cached = np.random.get_state()
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "python": [version, list(internal), gauss],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Put every generator back into the state that `random_state` gave."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])
    keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, cached))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


def capture(trainer: MethodTrainer, scheduler: Any, *, fingerprint: str, extra: dict[str, Any]) -> dict[str, Any]:
    """The state of a run, complete: the rest of the run depends on nothing else.

    Args:
        trainer: between two iterations.
        scheduler: learning-rate scheduler.
        fingerprint: of the run's pipeline and manifest; resuming another run is refused.
        extra: plain values of the workflow, such as the best score.
    """
    return {
        "iteration": trainer.state.iteration,
        "total": trainer.total,
        "fingerprint": fingerprint,
        "method": trainer.method.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "scaler": trainer.precision.scaler.state_dict(),
        "random": random_state(),
        "skipped": trainer.skipped,
        "parts": trainer.parts,
        "extra": extra,
    }


def restore(state: dict[str, Any], trainer: MethodTrainer, scheduler: Any, *, path: Path) -> None:
    """Bring a trainer and its scheduler into a captured state.

    Raises:
        CheckpointError: of another architecture or optimiser.
    """
    try:
        trainer.method.load_state_dict(state["method"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        trainer.precision.scaler.load_state_dict(state["scaler"])
    except (RuntimeError, ValueError, KeyError) as error:
        detail = " ".join(str(error).split())[:160]
        raise CheckpointError(f"belongs to another network or optimiser ({detail})", path=path) from error
    trainer.state.iteration = state["iteration"]
    trainer.skipped = state["skipped"]
    trainer.parts = state.get("parts", 1)
    restore_random_state(state["random"])


def all_finite(weights: dict[str, torch.Tensor]) -> bool:
    """Whether no weight is NaN or infinite."""
    floats = [value for value in weights.values() if value.is_floating_point()]
    return all(bool(torch.isfinite(value).all()) for value in floats)
