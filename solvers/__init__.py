"""Solvers: one file per PDE; every solver maps functions on a domain to functions on it."""
