"""`python -m chxbench`: the command line, for launchers that start a module."""

from .benchmark.cli import main

if __name__ == "__main__":
    main()
