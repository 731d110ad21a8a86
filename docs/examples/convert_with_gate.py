"""Quantize a network to int8, and write it only if it still localizes as well as in float."""

import logging

import edgeloc
from edgeloc.converters import ConvertOptions, GateLimits, GateRefused, convert
from edgeloc.models import SHIPPED_KERAS

logging.basicConfig(format="%(message)s", level=logging.WARNING)
try:
    conversion = convert(
        SHIPPED_KERAS,
        "localizer.tflite",
        ConvertOptions(calibration_images=60, limits=GateLimits(max_iou_drop=0.05)),
        calibration=edgeloc.open_dataset("synthetic?count=80", split="train"),  # your photos
        validation=edgeloc.open_dataset("synthetic?count=60", split="val"),  # others, labelled
    )
except GateRefused as refused:
    raise SystemExit(str(refused)) from None
print(f"{conversion.path}: {conversion.precision}, {conversion.size / 1e6:.2f} MB")
for finding in conversion.findings:
    print(finding.severity, finding.code, finding)
