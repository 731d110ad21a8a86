"""Test your own robot without a camera or a model: a camera that is unplugged, and an engine with known answers."""

import edgeloc


def locate(frame):
    """Stands for your model: the answer is the truth of the generated scene."""
    return edgeloc.Result(tuple(edgeloc.Detection(box, 0.9, label) for box, label in frame.truth))


class Robot(edgeloc.Sink):
    """Your program: it must brake when the camera was away."""

    name, braked = "robot", False

    def open(self, *, fps=None, live=False):
        pass

    def write(self, observation, drawn):
        self.braked = self.braked or observation.gap_s > 0.2

    def close(self):
        pass


robot = Robot()
edgeloc.run("fake://?size=64x48&fps=50&frames=120&disconnect=20:0.4", locate, robot)
assert robot.braked
print("the robot braked")
