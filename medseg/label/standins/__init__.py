"""Former name of `medseg.serve.standins`."""
