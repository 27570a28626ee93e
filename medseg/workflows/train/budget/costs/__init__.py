"""What the stages of a pipeline cost on this machine: each is begun with a method that is thrown away."""
