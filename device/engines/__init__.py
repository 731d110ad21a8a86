"""Inference engines that need an accelerator of the board."""
