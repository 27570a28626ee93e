"""Former name of `medseg.serve`."""
