"""Another process on the same machine: every result as it comes, by a socket."""

import json
import socket
import subprocess
import sys
import tempfile
import time

from edgeloc.models import SHIPPED_INT8

path = f"{tempfile.mkdtemp()}/edgeloc.sock"
command = ["run", SHIPPED_INT8, "--camera", "synthetic://?seed=1&fps=30&frames=90", "--sink", f"unix://{path}"]
detector = subprocess.Popen([sys.executable, "-m", "edgeloc", *command])

connection = socket.socket(socket.AF_UNIX)
for _ in range(100):
    try:
        connection.connect(path)
        break
    except OSError:
        time.sleep(0.1)
with connection, connection.makefile("rb") as lines:
    for line in lines:
        result = json.loads(line)
        # Both processes read the same monotonic clock.
        age_ms = (time.monotonic() - result["captured_at"]) * 1000
        if result["present"]:
            print(f"{result['label']} at {result['box']}, {age_ms:.0f} ms old")
detector.wait()
