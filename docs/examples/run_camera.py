"""Run a camera into a video and a file of results, and print how old the results were."""

import edgeloc
from edgeloc.models import SHIPPED_INT8

camera = "synthetic://?seed=2&fps=30&frames=60"  # on a board: "v4l2:///dev/video0", "picamera://0" or "csi://0"
summary = edgeloc.run(camera, edgeloc.Localizer(SHIPPED_INT8), "boxes.mp4", "boxes.jsonl", budget_ms=100)
print(summary)
