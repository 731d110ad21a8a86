"""Benchmarks of a quantized localizer: latency of each stage, what quantization cost, and the report of both."""
