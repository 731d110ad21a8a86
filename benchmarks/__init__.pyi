"""The public names; nothing else of this package is promised to stay."""

from edgeloc.benchmarks.comparison import Comparison as Comparison
from edgeloc.benchmarks.comparison import compare as compare
from edgeloc.benchmarks.comparison.change import Change as Change
from edgeloc.benchmarks.comparison.change import CompareLimits as CompareLimits
from edgeloc.benchmarks.measurement import BenchOptions as BenchOptions
from edgeloc.benchmarks.measurement import bench as bench
from edgeloc.benchmarks.report import render_report as render_report
from edgeloc.benchmarks.result import BenchResult as BenchResult
from edgeloc.benchmarks.result import read_result as read_result
from edgeloc.benchmarks.result import write_result as write_result
from edgeloc.benchmarks.sweeps import Sweep as Sweep
from edgeloc.benchmarks.sweeps import SweepOptions as SweepOptions
from edgeloc.benchmarks.sweeps import sweep as sweep
from edgeloc.benchmarks.sweeps.choice import SweepRow as SweepRow
