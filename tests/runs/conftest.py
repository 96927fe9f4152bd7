"""Fixtures of runs: a model that is made up on the spot, and small real ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from slmquant.calib import hub
from slmquant.errors import SlmquantError
from slmquant.machine.process import FREE, Isolation, explain
from slmquant.model.sources.pull import pull
from slmquant.progress import Progress
from slmquant.runs import repeats
from slmquant.runs.executors import local
from slmquant.tasks.common.lm_eval import rows
from tests.runs.made_up import write_text
from tests.tasks.made_up import arc_rows, sentences, write_rows

SHARED = Path(__file__).resolve().parents[3] / "shared"


@pytest.fixture
def data_dir() -> Path:
    """A local folder of data, beside the repository or named by SLMQUANT_DATA."""
    folder = Path(os.environ.get("SLMQUANT_DATA") or SHARED / "data")
    if not folder.is_dir():
        pytest.skip("no local folder of data; set SLMQUANT_DATA")
    return folder


@pytest.fixture
def stories260k(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> str:
    """stories260k in a cache of the test's own."""
    source = data_dir.parent / "models" / "stories260k"
    if not source.is_dir():
        pytest.skip("models/stories260k is not beside the data folder")
    monkeypatch.setenv("SLMQUANT_CACHE", str(tmp_path / "cache"))
    pull("stories260k", local=source)
    return "stories260k"


def here(function: Callable[..., object], argument: object, progress: Progress, isolation: Isolation = FREE) -> object:
    """Stands for a process of its own."""
    del isolation
    try:
        return function(argument, progress)
    except SlmquantError as error:
        return explain(error)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a hub, with a cache of its own, and all work in this process."""
    monkeypatch.setattr(hub, "reachable", lambda: False)
    monkeypatch.setattr(rows, "reachable", lambda: False)
    for module in (local, repeats):
        monkeypatch.setattr(module, "run_isolated", here)
    monkeypatch.setenv("SLMQUANT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SLMQUANT_DATA", raising=False)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A random model of two layers in a folder, with a tokenizer that was trained on the spot."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        [sentences(0, 200)],
        trainers.BpeTrainer(
            vocab_size=330, initial_alphabet=alphabet, special_tokens=["<s>", "</s>"], show_progress=False
        ),
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=330, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.3,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )  # fmt: skip
    folder = tmp_path / "model"
    LlamaForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>").save_pretrained(folder)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A local folder of data: two texts, and 12 ARC questions."""
    folder = tmp_path / "data"
    write_text(folder, "wikitext2_test", 1)
    write_text(folder, "wikitext2_train", 2)
    write_rows(folder, "arc_easy", "test", arc_rows(2, 12))
    return folder
