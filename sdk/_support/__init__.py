"""Helpers that several rooms share and no user calls."""
