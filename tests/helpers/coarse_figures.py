"""Figures that are drawn small: most tests of whole runs only need them to be there, with the hash of their scores."""

from collections.abc import Callable

from matplotlib.figure import Figure


def make_coarse(save: Callable[..., None]) -> Callable[..., None]:
    """Save small and without arranging the parts, which takes half the time of a small run."""

    def savefig(figure: Figure, *arguments: object, **options: object) -> None:
        figure.set_layout_engine("none")
        save(figure, *arguments, **{**options, "dpi": 20})

    return savefig
