"""The manifest: which cases a data set has, and the labels, annotations or tags of each."""
