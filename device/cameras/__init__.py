"""Cameras that are hardware, each a module of its own; `edgeloc.cameras` finds them by name."""
