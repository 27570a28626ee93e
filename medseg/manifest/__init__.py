"""The manifest: which cases a data set has and what is known of each."""
