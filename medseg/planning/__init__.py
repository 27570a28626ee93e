"""From a manifest to a plan: spacing, intensities, patch and batch."""
