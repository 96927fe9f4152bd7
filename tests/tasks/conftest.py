from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from slmquant.calib import hub
from slmquant.model.computing.modes import FLOAT32
from slmquant.tasks.common.contract import EvalContext
from slmquant.tasks.common.lm_eval import rows
from tests.tasks.made_up import arc_rows, sentences, write_rows


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "reachable", lambda: False)
    monkeypatch.setattr(rows, "reachable", lambda: False)
    monkeypatch.delenv("SLMQUANT_DATA", raising=False)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, as most small models have it, trained on the spot."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>"],
        show_progress=False,
    )
    bpe.train_from_iterator([sentences(0, 200)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="<s>")


@pytest.fixture(scope="session")
def tiny_model(tokenizer: PreTrainedTokenizerFast) -> Callable[..., LlamaForCausalLM]:
    """Seed → random model of two layers with a context of 64 tokens."""

    def build(seed: int, max_position_embeddings: int = 64) -> LlamaForCausalLM:
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=max_position_embeddings,
            initializer_range=0.3,
            tie_word_embeddings=False,
        )
        model = LlamaForCausalLM(config)
        model.eval()
        return model

    return build


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A local folder of data: a text of a few hundred tokens, and 12 ARC questions."""
    folder = tmp_path / "data"
    (folder / "text").mkdir(parents=True)
    (folder / "text" / "wikitext2_test.txt.gz").write_bytes(gzip.compress(sentences(1, 60).encode()))
    write_rows(folder, "arc_easy", "test", arc_rows(2, 12))
    return folder


@pytest.fixture
def context(
    tiny_model: Callable[[int], LlamaForCausalLM],
    tokenizer: PreTrainedTokenizerFast,
    data: Path,
    tmp_path: Path,
) -> Callable[..., EvalContext]:
    """Build a context around the model of a seed."""

    def build(seed: int = 0, is_reference: bool = False, model: Any = None) -> EvalContext:
        return EvalContext(
            model=model or tiny_model(seed),
            mode=FLOAT32,
            tokenizer=tokenizer,
            model_sha256="0" * 64,
            cache_dir=tmp_path / "cache",
            data_dir=data,
            is_reference=is_reference,
        )

    return build
