"""What a format lacks is told before anything is computed for it."""

from importlib.metadata import PackageNotFoundError

import pytest

from slmquant import formats
from slmquant.artifact import Artifact
from slmquant.errors import UnavailableError
from slmquant.formats.common import contract
from slmquant.formats.common.contract import check_installed


def test_packages_of_an_extra_that_are_not_here_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        if package.startswith("onnx"):
            raise PackageNotFoundError(package)
        return "1"

    monkeypatch.setattr(contract, "version", version)
    with pytest.raises(UnavailableError, match=r"onnx: not installed: onnx, onnx-ir, .*pip install 'slmquant\[onnx\]'"):
        check_installed("onnx", formats.load("onnx").extra)
    check_installed("gguf", formats.load("gguf").extra)
    check_installed("openvino", formats.load("openvino").extra)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("/home/somebody/models/mine", "mine"),
        ("./folder/mine.gguf", "mine.gguf"),
        ("~/mine", "mine"),
        ("smollm2-135m-instruct", "smollm2-135m-instruct"),
        ("organisation/name", "organisation/name"),
    ],
)
def test_a_file_that_may_be_given_away_does_not_say_where_its_source_lay(source: str, told: str) -> None:
    assert Artifact(None, None, source, "0" * 64).public_source == told  # type: ignore[arg-type]
