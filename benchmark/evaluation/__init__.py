"""From model outputs to numbers: metrics of scores and heatmaps. No torch."""
