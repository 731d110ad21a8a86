"""Detectors to train: their heads, which location answers for which object, and their losses."""
