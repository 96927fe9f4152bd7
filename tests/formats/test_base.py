"""What a format lacks is told before anything is computed for it."""

from importlib.metadata import PackageNotFoundError

import pytest

from slmquant import formats
from slmquant.errors import UnavailableError
from slmquant.formats import _base
from slmquant.formats._base import check_installed


def test_packages_of_an_extra_that_are_not_here_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        if package.startswith("onnx"):
            raise PackageNotFoundError(package)
        return "1"

    monkeypatch.setattr(_base, "version", version)
    with pytest.raises(UnavailableError, match=r"onnx: not installed: onnx, onnx-ir, .*pip install 'slmquant\[onnx\]'"):
        check_installed("onnx", formats.load("onnx").extra)
    check_installed("gguf", formats.load("gguf").extra)
    check_installed("openvino", formats.load("openvino").extra)
