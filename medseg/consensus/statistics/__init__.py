"""Agreement between raters, raters against the consensus, maps of uncertainty."""
