"""What malloc is told for a training, in a process of its own, since that cannot be taken back."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS_OF_TEN_STEPS = """
import resource
import sys
import numpy as np
from edgeloc.converters.training import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
def step():
    return [np.ones(5_000_000).sum() for _ in range(2)]
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    line = [sys.executable, "-c", FAULTS_OF_TEN_STEPS, how]
    return int(subprocess.run(line, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is told anything")
def test_the_next_step_gets_the_memory_of_the_last() -> None:
    assert faults("kept") < 0.05 * faults("as it is")
