"""Records of runs: schema, reading and writing, checks, figures. No torch."""
