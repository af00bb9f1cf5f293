"""Everything that runs a network: device, training, checkpoints, inference."""
