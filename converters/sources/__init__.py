"""What a user trained, from each framework, on its way to a float `.tflite`."""
