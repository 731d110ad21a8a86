"""Track the object, and turn its box into a direction in the robot's body."""

import edgeloc
from edgeloc.models import SHIPPED_INT8

geometry = edgeloc.CameraGeometry.from_hfov(62.2, (640, 480), mounting_deg=(0, -20, 0))
localizer = edgeloc.Localizer(SHIPPED_INT8)


class Pilot(edgeloc.Sink):
    """Turns to where the object will be, and hovers when it is lost."""

    name = "pilot"

    def open(self, *, fps=None, live=False):
        pass

    def write(self, observation, drawn):
        track = observation.track
        if track.state == "lost" or observation.stale:
            print("hover")
            return
        bearing = geometry.bearing(*track.box.center)
        distance_m = geometry.distance_m(track.box, width_m=0.3)
        away = "cut by the frame" if distance_m is None else f"{distance_m:.1f} m away"
        print(f"{track.state}: azimuth {bearing.azimuth:+.3f}, elevation {bearing.elevation:+.3f}, {away}")

    def close(self):
        print("land")


tracker = edgeloc.Tracker(localizer.contract, predict_ms=100)
edgeloc.run("synthetic://?seed=4&size=640x480&fps=30&frames=30", localizer, Pilot(), budget_ms=200, tracker=tracker)
