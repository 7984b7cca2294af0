"""Readers of other packages' files, each one file."""
