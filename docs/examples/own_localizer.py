"""Your own localizer: a function around a network that no contract describes."""

import cv2
import numpy as np

import edgeloc
from edgeloc.models import SHIPPED_INT8

engine = edgeloc.open_engine("auto", SHIPPED_INT8)  # any .tflite or .onnx; or another library's network


def find(frame):
    """The object in a frame: a box in pixels of that frame, a score from 0 to 1, and a label if there is one."""
    raw = engine.invoke(np.ascontiguousarray(cv2.resize(frame.pixels, (256, 256))[None, :, :, ::-1]))
    real = {name: (raw[name].astype(float) - info.zero_point) * info.scale for name, info in engine.outputs.items()}
    score = 1 / (1 + np.exp(-real["presence"].item()))
    if score < 0.5:
        return edgeloc.Result()
    cell = int(real["weights"].argmax())
    rows, columns = real["weights"].shape[1:3]
    row, column = divmod(cell, columns)
    left, top, right, bottom = np.log1p(np.exp(real["distances"].reshape(-1, 4)[cell]))
    x, y = (column + 0.5) / columns, (row + 0.5) / rows
    height, width = frame.pixels.shape[:2]
    box = edgeloc.Box((x - left) * width, (y - top) * height, (x + right) * width, (y + bottom) * height)
    return edgeloc.Result((edgeloc.Detection(box, score),))


if __name__ == "__main__":
    print(edgeloc.run("synthetic://?seed=1&frames=30&live=0", find))
