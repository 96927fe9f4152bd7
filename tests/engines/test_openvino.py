"""OpenVINO computes what was evaluated: on every architecture, at any lengths, token by token and all at once."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from slmquant.engines import load as load_engine
from slmquant.engines.common.contract import OpenOptions, Session
from slmquant.errors import ModelError
from slmquant.formats import load
from slmquant.formats.openvino.runtime import import_openvino
from slmquant.model.computing.quantized_model import QuantizedModel
from slmquant.testing.method_contract import quantized
from slmquant.testing.tiny import VOCABULARY
from tests.formats.gguf_models import export

# not `importorskip`: importing openvino from here would report to its maker, see `formats.openvino.runtime`
pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(find_spec("openvino") is None, reason="needs slmquant[openvino]"),
]

ARCHITECTURES = [
    "llama", "llama-yarn", "llama-bias", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi", "phi3",
    "smollm3", "olmo2", "granite", "starcoder2", "gpt2", "gpt_neox", "opt", "bloom", "falcon-new", "exaone4",
]  # fmt: skip
TOKENS = torch.randint(3, VOCABULARY, (1, 23), generator=torch.Generator().manual_seed(3))


def opened(model: QuantizedModel, folder: Path, context: int = 64) -> Session:
    load("openvino").write(export(model), folder)
    return load_engine("openvino").open(folder, OpenOptions(threads=1, context=context))


def log_probabilities(logits: NDArray[np.float32] | torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(logits).double().log_softmax(-1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_computes_what_torch_does(tmp_path: Path, architecture: str) -> None:
    scheme = (
        "W4A16g12-asym" if architecture == "gpt2" else "W4A16g16-asym"
    )  # 16 and its 36 inputs have only 4 in common
    model = quantized("rtn", scheme, architecture)
    session, tokens = opened(model, tmp_path / "m"), TOKENS[0].tolist()
    with torch.no_grad():
        expected = log_probabilities(model.model(TOKENS).logits[0])

    at_once = log_probabilities(session.feed(tokens, every=True))
    session.reset()
    prefix = log_probabilities(session.feed(tokens[:11]))
    rest = [log_probabilities(session.feed([token])) for token in tokens[11:20]]
    rest.append(log_probabilities(session.feed(tokens[20:], every=True)))

    assert session.vocab == expected.shape[1]
    assert prefix.shape == (1, session.vocab)
    for got, want in ((at_once, expected), (torch.cat([prefix, *rest]), expected[10:])):
        assert float((want.exp() * (want - got)).sum(-1).mean()) < 2e-5


def test_it_multiplies_compressed_weights_as_they_are(tmp_path: Path) -> None:
    """Otherwise the file would be small and the memory not."""
    ov = import_openvino()
    load("openvino").write(export(quantized("rtn", "W4A16g16E8")), tmp_path / "m")
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = ov.Core().compile_model(tmp_path / "m" / "openvino_model.xml", "CPU", settings)
    executed = [
        (str(node.get_rt_info()["layerType"].value), node) for node in compiled.get_runtime_model().get_ordered_ops()
    ]

    products = [node.input(1).get_element_type().get_type_name() for kind, node in executed if kind == "FullyConnected"]
    assert sorted(products) == ["i4"] * 14 + ["i8"]
    assert [kind for kind, _ in executed].count("ScaledDotProductAttention") == 2
    assert compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE") == 0
    assert compiled.get_property("KV_CACHE_PRECISION") == ov.Type.f16


def test_it_says_what_it_is() -> None:
    status = load_engine("openvino").status()

    assert status.usable
    assert status.version is not None
    assert "FP32" in status.instructions


def test_nothing_is_reported_to_anyone() -> None:
    """`import openvino` by itself sends an event; a fresh process that opens the engine has no module that could."""
    import subprocess
    import sys

    code = (
        "import sys; from slmquant.engines import load; load('openvino').status();"
        "print('openvino' in sys.modules, 'openvino_telemetry' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["True", "False"]


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no openvino_model\.xml"):
        load_engine("openvino").open(tmp_path, OpenOptions(threads=1, context=8))
