"""Train a localizer on your labelled photos. The numbers here are for a demonstration; leave them out for real."""

from edgeloc.converters import TrainOptions, train

photos = "synthetic?count=24&size=96x96"  # the path of your data: COCO, Pascal VOC, YOLO, CSV or JSON lines
options = TrainOptions(epochs=1, input_size=64, backbone_weights="none", batch_size=4)
training = train([photos], "localizer.keras", options)
print(training)  # convert it next: convert_with_gate.py
