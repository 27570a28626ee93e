"""`--budget`: what fits the time, timed on this machine."""
