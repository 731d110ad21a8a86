"""Measure a model, and read the figures back from the result file."""

from edgeloc.benchmarks import BenchOptions, bench, read_result
from edgeloc.models import SHIPPED_INT8

options = BenchOptions(
    SHIPPED_INT8,
    "result.json",
    validation="synthetic?count=20",  # your labelled photos
    validation_split="val",
    frames=30,
    power="none",  # "auto" looks for a meter
)
bench(options)

result = read_result("result.json")
for stage, latency in result.latency.items():
    print(f"{stage:11} p50 {latency.p50_ms:6.2f} ms, p99 {latency.p99_ms:6.2f} ms")
print("energy:", result.energy.status)
