"""Coral's Edge TPU as an engine."""
