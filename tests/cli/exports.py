"""One export in each format of a model whose sides are multiples of 32, as words of the command line."""

import pytest

EXPORTS = (
    ("native", "W8A16", ()),
    ("gguf", "W8A16", ("--otherwise", "F16")),
    ("gptq", "W8A16g32", ()),
    ("awq", "W4A16g32-asym", ()),
    ("compressed_tensors", "W8A16g32", ()),
    pytest.param("onnx", "W8A16g32", ("--otherwise", "f16"), marks=pytest.mark.engine),
    pytest.param("openvino", "W8A16g32", (), marks=pytest.mark.engine),
)
"""Format, scheme, further words."""
