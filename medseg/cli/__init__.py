"""The `medseg` command."""

from medseg.cli.app import main

__all__ = ["main"]
