"""Evaluation: errors at resolutions, certification, rollouts, pictures."""
