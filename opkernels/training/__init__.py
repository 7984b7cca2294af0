"""Training: configuration, the loop, regimes, checkpoints."""
