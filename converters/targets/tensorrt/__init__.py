"""The Jetson as a target: ONNX with quantize/dequantize pairs for its TensorRT."""
