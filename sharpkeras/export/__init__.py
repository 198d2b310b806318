"""Keras → ONNX: `exporting.export_onnx` and what it is made of."""
