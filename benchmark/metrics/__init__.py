"""Pure functions of arrays: AUC, bootstrap, intervals, calibration, localization."""
