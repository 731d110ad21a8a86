"""Cameras that are hardware; `edgeloc.cameras` finds them by name."""
