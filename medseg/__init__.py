"""medseg: medical image segmentation from scarce, weak or contradictory labels, on MONAI."""

from __future__ import annotations

__version__ = "0.1.0"
