"""Steer towards the object, and hover when the answer is too old to act on."""

import edgeloc
from edgeloc.models import SHIPPED_INT8


class Pilot(edgeloc.Sink):
    """Turns each observation into a yaw command."""

    name = "pilot"

    def open(self, *, fps=None, live=False):
        pass

    def write(self, observation, drawn):
        result = observation.result
        if observation.stale or observation.gap_s > 0.2 or not result.present:
            print(f"hover   ({observation.age_ms:.0f} ms old, {observation.dropped} frames dropped)")
            return
        width = observation.frame.pixels.shape[1]
        offset = (result.box.x1 + result.box.x2) / width - 1  # -1 at the left edge, 1 at the right
        print(f"yaw {offset:+.2f} ({observation.age_ms:.0f} ms old)")

    def close(self):
        print("land")


camera = "synthetic://?seed=4&fps=30&frames=30"
edgeloc.run(camera, edgeloc.Localizer(SHIPPED_INT8), Pilot(), mode="fresh", budget_ms=80)
