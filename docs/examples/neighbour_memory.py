"""Another process on the same machine: the newest result and its picture, by shared memory."""

import json
import mmap
import struct
import subprocess
import sys
import time

import numpy as np

from edgeloc.models import SHIPPED_INT8

command = ["run", SHIPPED_INT8, "--camera", "synthetic://?seed=1&fps=30&frames=60", "--sink", "shm://edgeloc-example"]
detector = subprocess.Popen([sys.executable, "-m", "edgeloc", *command])


def newest(path="/dev/shm/edgeloc-example"):
    """The newest result and picture, or None while nothing whole is there."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as shared:
        _, number, length, height, width = struct.unpack_from("<8sQIII", shared)
        line = shared[64 : 64 + length]
        pixels = np.frombuffer(shared[65536 : 65536 + 3 * height * width], np.uint8).reshape(height, width, 3)
        if number % 2 or not length or struct.unpack_from("<8xQ", shared)[0] != number:
            return None
        return json.loads(line), pixels


while detector.poll() is None:
    try:
        found = newest()
    except OSError:
        found = None
    if found:
        result, pixels = found
        print(result["sequence"], result["box"], pixels.shape)
    time.sleep(0.1)
