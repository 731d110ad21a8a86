"""Test a landing without a drone: an autopilot that is not there reads the directions that a run sends by MAVLink."""

import math

import edgeloc
from edgeloc.testing import FakeAutopilot


def locate(frame):
    """Stands for your model: the answer is the truth of the generated scene."""
    return edgeloc.Result(tuple(edgeloc.Detection(box, 0.9, label) for box, label in frame.truth))


# The camera looks down, the top of its picture forward.
geometry = edgeloc.CameraGeometry.from_hfov(62.2, (640, 480), mounting_deg=(0, -90, 0))
camera = "synthetic://?seed=4&size=640x480&fps=30"

for kind in ("ardupilot", "px4"):
    with FakeAutopilot(kind) as autopilot:
        sink = f"mavlink://127.0.0.1:{autopilot.port}"
        edgeloc.run(camera, locate, sink, geometry=geometry, object_width_m=0.4, frames=45)
    sight = autopilot.sights[-1]
    right, back = math.degrees(sight.right), math.degrees(sight.back)
    print(f"{kind}: {len(autopilot.sights)} sights, the last {right:+.1f} deg to the right, {back:+.1f} to the back,")
    print(f"  {sight.received_at - sight.captured_at:.3f} s after its capture; position: {sight.position}")
