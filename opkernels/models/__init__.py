"""Models: one file per seed system; model(x, *, parameters=None, grid=None, output_shape=None)."""
