"""Trains the reference localizer with Keras."""
