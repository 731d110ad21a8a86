"""The same process: flight code in the body of a loop over the camera."""

import edgeloc
from edgeloc.models import SHIPPED_INT8

localizer = edgeloc.Localizer(SHIPPED_INT8)
camera = "synthetic://?seed=1&fps=30&frames=60"
for observation in edgeloc.stream(camera, localizer, budget_ms=200, tracker=edgeloc.Tracker(localizer.contract)):
    track = observation.track
    if observation.stale or track.state == "lost":
        print("hold")
    else:
        print(f"steer to {track.box.center}, {observation.age_ms:.0f} ms after the exposure")
