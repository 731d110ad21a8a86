"""Targets other than the CPU: Edge TPU and TensorRT."""
