"""From model outputs to numbers: scores and heatmaps to metrics. No torch."""
