"""MONAI bundles: what training writes and what prediction opens as data."""
