"""Label files as manifests need them: which values they hold, and copies of those that cannot be used as they are."""
