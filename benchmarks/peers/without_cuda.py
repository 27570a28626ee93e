"""Call a function of a peer on a machine without CUDA; runs in the peer's environment.

    python without_cuda.py nnunetv2.run.run_training:run_training_entry ARGUMENTS

The import of a torchvision for CUDA ends in "operator torchvision::nms does not exist" beside a torch without CUDA. The
peers never call its operators, so that it is enough that their names are there. `on_the_cpu` is for a peer that has the
names of GPUs written in its code.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

import torch

OPERATORS = tuple(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for name in ("nms", "qnms"))


def name_missing_operators() -> torch.library.Library | None:
    """Define the names of torchvision's operators where its own library could not be loaded.

    Returns:
        What holds the names; they are gone with it.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for module in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[module]
        library = torch.library.Library("torchvision", "DEF")
        for operator in OPERATORS:
            library.define(operator)
        return library
    return None


def on_the_cpu() -> ModuleType:
    """Make what a module can have under the name `torch`: torch itself, but that every device is the CPU.

    Only the module that is given it is changed: `torch.device` stays a class for everyone else.

    Example:
        >>> on_the_cpu().device("cuda:1")
        device(type='cpu')
    """
    return _TorchOnTheCpu("torch")


class _TorchOnTheCpu(ModuleType):
    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def device(*_: Any) -> torch.device:
        return torch.device("cpu")


if __name__ == "__main__":
    names = name_missing_operators()
    module, _, function = sys.argv.pop(1).partition(":")
    getattr(importlib.import_module(module), function)()
