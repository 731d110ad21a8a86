"""Runs trained localization CNNs on camera boards."""
