"""Evaluation of model outputs: metrics of scores and heatmaps, without torch."""
