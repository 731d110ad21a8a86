"""Another process on the same machine: the newest result and its picture, by shared memory."""

import json
import mmap
import os
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np

from edgeloc.models import SHIPPED_INT8


def newest(name):
    """The newest result and its picture (BGR); None before the first."""
    with open(f"/dev/shm/{name}", "rb") as file:
        memory = np.frombuffer(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ), np.uint8)
    head = memory[:64].view("<u8")  # magic, begun, done, room
    while number := int(head[2]):
        slot = memory[64 + number % 2 * int(head[3]) :][: int(head[3])].copy()
        if head[1] < number + 2:  # it was not written to meanwhile
            height, width, length = slot[:12].view("<u4").tolist()
            end = 64 + height * width * 3
            return json.loads(slot[end : end + length].tobytes()), slot[64:end].reshape(height, width, 3)


if __name__ == "__main__":
    name = f"edgeloc-example-{os.getpid()}"
    command = ["run", SHIPPED_INT8, "--camera", "synthetic://?seed=1&fps=30&frames=60", "--sink", f"shm://{name}"]
    detector = subprocess.Popen([sys.executable, "-m", "edgeloc", *command])
    while detector.poll() is None:
        time.sleep(0.1)
        with suppress(FileNotFoundError, TypeError):  # before the run's beginning, before its first result
            result, pixels = newest(name)
            print(result["sequence"], result["box"], pixels.shape)
