"""Keras → ONNX: `export_onnx.export_onnx` and what it is made of."""
