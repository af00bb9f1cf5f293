"""Pure functions of arrays: AUC, bootstrap, calibration, DeLong, localization."""
