"""Draw the ROC curves of a run."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from ...evaluation.artifacts import label_column, score_column
from ...metrics.auc import roc
from ...utils.text import display_name
from ..schema import Record
from .style import GRAY, figure_title, fold, line_style, new_figure, save, set_title, styled

NAME_WIDTH = 26  # characters per line of a finding's name in the legend


@styled
def draw_roc(record: Record, table: pd.DataFrame, path: Path) -> None:
    """Draw the ROC curves of all findings on the test split, as in Ma et al. 2019, Fig. 5.

    A finding has the same color and stroke in every figure. The legend is ordered by AUC and lists undefined findings.

    Args:
        record: record to draw.
        table: score table of the record.
        path: path of the PNG, in which the hash of the scores is embedded.
    """
    figure = new_figure(5.9)
    axes = figure.add_subplot(aspect="equal", anchor="W", xlabel="False positive rate", ylabel="True positive rate")
    axes.plot([0, 1], [0, 1], color=GRAY, linewidth=0.8, linestyle=":")
    _draw_curves(axes, record, table[table["split"] == "test"])
    axes.set(xlim=(-0.01, 1), ylim=(0, 1.01))
    mean = "undefined" if record.mean_auc.value is None else f"{record.mean_auc.value:.3f}"
    heading = f"AUC (mean {mean})"
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1), title=heading, alignment="left", handlelength=2.6)
    set_title(figure, figure_title(record))
    save(figure, path, record.scores.sha256)


def _draw_curves(axes: Axes, record: Record, test: pd.DataFrame) -> None:
    styles = {finding: line_style(number) for number, finding in enumerate(record.auc)}
    for finding, auc in sorted(record.auc.items(), key=lambda item: -(item[1].value or 0)):
        name = fold(display_name(finding), NAME_WIDTH)
        if auc.value is None:
            axes.plot([], [], linestyle="none", label=f"undefined  {name}")
            continue
        scores, labels = (test[column(finding)].to_numpy() for column in (score_column, label_column))
        color, stroke = styles[finding]
        axes.plot(*roc(scores, labels), color=color, linestyle=stroke, linewidth=1.5, label=f"{auc.value:.3f}  {name}")
