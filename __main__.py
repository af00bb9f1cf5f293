"""`python -m chxbench`: the command line for launchers that start a module (`accelerate launch -m`, `torchrun -m`)."""

from .benchmark.cli import main

if __name__ == "__main__":
    main()
