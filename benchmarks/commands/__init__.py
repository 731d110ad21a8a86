"""The sub-commands that benchmarks brings to `edgeloc`; each is a light module."""
