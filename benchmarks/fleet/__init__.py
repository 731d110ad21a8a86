"""Benchmarks on many boards at once, through a Dask scheduler; nothing else of edgeloc imports Dask."""
