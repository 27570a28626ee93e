"""Call a command of a peer, also where only a torchvision for CUDA is installed; runs in the peer's environment.

    python without_cuda.py nnunetv2.run.run_training:run_training_entry ARGUMENTS

The import of such a torchvision ends in "operator torchvision::nms does not exist" beside a torch without CUDA. The
peer never calls its operators, so that it is enough that their names are there.
"""

from __future__ import annotations

import importlib
import sys

import torch

OPERATORS = ("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",)


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


if __name__ == "__main__":
    names = name_missing_operators()
    module, _, function = sys.argv.pop(1).partition(":")
    getattr(importlib.import_module(module), function)()
