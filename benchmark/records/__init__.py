"""Records of runs and of speed: schema, reading and writing, verification and figures, without torch."""
