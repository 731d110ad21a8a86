"""Find the object in one image and save a copy with the box drawn."""

import cv2

import edgeloc
from edgeloc.models import SHIPPED_INT8

image = edgeloc.SceneGenerator(seed=0, size=(640, 480)).scene(7).pixels  # or cv2.imread("photo.jpg")
localizer = edgeloc.Localizer(SHIPPED_INT8)
result = localizer(image)

for found in result.objects:
    print(f"{found.label} at {[round(edge) for edge in found.box]}, score {found.score:.2f}")
    left, top, right, bottom = (round(edge) for edge in found.box)
    cv2.rectangle(image, (left, top), (right, bottom), (0, 255, 0), 2)
cv2.imwrite("boxes.png", image)
