"""Bytes of a file are predicted but for the padding of its keys."""

from pathlib import Path
from typing import Any

import pytest

from slmquant.artifact import Artifact
from slmquant.calib.calibration import NoCalibration
from slmquant.formats.gguf.writer import FORMAT
from slmquant.methods.common.mixed import weight_names
from slmquant.mixing.file_bytes import other_bytes, tensor_bytes
from slmquant.model.discovery.relations import discover
from slmquant.model.running.trial import stored_weight
from slmquant.quantization import quantize_
from slmquant.schemes import Scheme, parse
from slmquant.testing.tiny import tiny
from tests.formats.gguf_models import export

SIDES: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
}


@pytest.mark.parametrize("kinds", [["Q4_0"], ["Q8_0", "IQ4_NL", "Q5_1"], ["Q5_0", "Q4_1"]])
@pytest.mark.parametrize("tied", [True, False])
def test_a_file_takes_what_was_predicted(tmp_path: Path, kinds: list[str], tied: bool) -> None:

    def full() -> Artifact:
        model = tiny("llama", tie_word_embeddings=tied, **SIDES)
        return export(quantize_(model, "none", Scheme(), NoCalibration()))

    model = full().quantized.model
    elements = {name: stored_weight(model, name).numel() for name in weight_names(discover(model))}
    types = {name: kinds[place % len(kinds)] for place, name in enumerate(elements)}
    predicted = other_bytes(full(), elements) + sum(tensor_bytes(types[name], elements[name]) for name in elements)
    table = Scheme.of_table({name: parse(kind).weights for name, kind in types.items()})
    FORMAT.write(export(quantize_(full().quantized.model, "rtn", table, NoCalibration())), tmp_path / "model.gguf")

    assert predicted - 62 <= (tmp_path / "model.gguf").stat().st_size <= predicted
