"""A run that exercises everything and takes seconds: the real pipeline on few, small, drawn images."""

from click.testing import CliRunner

from chxbench.benchmark.cli import main

SMALL_DATA = {"dataset.images": 120, "dataset.size": 64}
SMALL_RECIPE = {
    "pixels.size": 36,
    "pixels.crop": 32,
    "pixels.max_shift": 2,
    "train.epochs": 2,
    "train.batch_size": 16,
    "evaluate.resamples": 100,
}


def invoke(*words):
    """Run the command line in this process; the result has its exit code and output."""
    return CliRunner().invoke(main, [str(word) for word in words])
