"""`python -m medseg`: the same command as `medseg`, and what `torchrun -m medseg` starts."""

from medseg.cli.app import main

if __name__ == "__main__":
    main()
