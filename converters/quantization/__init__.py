"""From a float `.tflite` to an integer one: recipes, calibration, bias correction."""
