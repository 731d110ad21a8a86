"""Turns a trained localization CNN into an int8 model file with its contract; runs on the workstation."""
