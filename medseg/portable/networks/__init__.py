"""Networks that MONAI does not have, and wrappers around networks; travels inside bundles."""
