"""Another machine: a server to which the camera's machine sends its results, and acts on their age."""

import json
import socket
import subprocess
import sys

from edgeloc.models import SHIPPED_INT8

server = socket.create_server(("127.0.0.1", 0))
port = server.getsockname()[1]

# On the machine with the camera:
camera = "synthetic://?seed=1&fps=30&frames=60"
command = ["run", SHIPPED_INT8, "--camera", camera, "--budget-ms", "200", "--sink", f"tcp://127.0.0.1:{port}"]
detector = subprocess.Popen([sys.executable, "-m", "edgeloc", *command])

connection, _ = server.accept()
with connection, connection.makefile("rb") as lines:
    for line in lines:
        result = json.loads(line)
        if result["stale"] or not result["present"]:
            print("hold")
        else:
            print(f"steer to {result['box']}")
detector.wait()
server.close()
