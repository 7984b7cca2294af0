"""Layers: one file per kind of layer; layer(x, grid)."""
