"""Every engine that is usable here keeps its contract on a model in each of its formats; third-party engines, too."""

from pathlib import Path

import numpy as np
import pytest
import torch

from slmquant import engines, formats
from slmquant.artifact import Artifact
from slmquant.engines.common.contract import OpenOptions
from slmquant.errors import UnavailableError
from slmquant.formats.common.contract import check_installed
from slmquant.testing.contract import ContractError
from slmquant.testing.engine_contract import check_engine
from slmquant.testing.tiny import VOCABULARY
from tests import made_up_engines
from tests.formats.gguf_models import quantized, tokenizer

TOKENS = np.random.default_rng(0).integers(VOCABULARY, size=24).tolist()


def opened() -> list[tuple[str, str]]:
    return [(name, written) for name in engines.names() for written in engines.load(name).formats]


@pytest.mark.engine
@pytest.mark.parametrize(("name", "written"), opened())
def test_every_engine_keeps_its_contract(tmp_path: Path, name: str, written: str) -> None:
    try:
        check_installed(written, formats.load(written).extra)
    except UnavailableError as error:
        pytest.skip(str(error))
    made = quantized("llama", "rtn", "W4A16g32", hidden_size=128, intermediate_size=160, num_attention_heads=4,
                     num_key_value_heads=2)  # fmt: skip
    with torch.no_grad():
        reference = made.model(torch.tensor([TOKENS])).logits[0].numpy()
    fmt = formats.load(written)
    if (reason := fmt.refusal(made)) is not None:
        pytest.skip(reason)
    path = fmt.write(Artifact(made, tokenizer(), "tiny", "0" * 64), tmp_path / f"model{fmt.suffix}").path

    outcome = check_engine(name, path, TOKENS, reference)

    if outcome.refusal is not None:
        pytest.skip(outcome.refusal)


def test_a_made_up_engine_keeps_the_contract_and_a_wrong_one_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up_engines.install(tmp_path, monkeypatch)
    tokens = list(range(9))
    reference = made_up_engines.Bigram(OpenOptions(1, 9)).feed(tokens, every=True)

    assert check_engine("right", tmp_path, tokens, reference).refusal is None
    assert "pip install" in str(check_engine("missing", tmp_path, tokens, reference).refusal)
    with pytest.raises(ContractError, match="wrong: agrees with torch within"):
        check_engine("wrong", tmp_path, tokens, reference)
    with pytest.raises(ContractError, match="undefined: gives finite logits"):
        check_engine("undefined", tmp_path, tokens, reference)
