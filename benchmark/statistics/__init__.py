"""Pure functions of arrays: they know no file, no torch and no screen."""
