"""ONNX: a folder for ONNX Runtime."""

from slmquant.formats.onnx.writer import FORMAT as FORMAT
