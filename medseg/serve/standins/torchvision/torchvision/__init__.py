"""Stands in for torchvision where it cannot be imported; MONAI Label asks for two functions and does not call them."""

__version__ = "0.0.0"
