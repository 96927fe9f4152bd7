"""What holds for every test."""

from __future__ import annotations

import importlib.util
import os
import signal
import zlib
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from slmquant.model.structure import Relations

# torch's compiler has setuptools replace distutils, which fails once a test has imported that.
if importlib.util.find_spec("setuptools") is not None:
    importlib.import_module("setuptools")
os.environ["COLUMNS"] = "200"  # tables as wide as in a pipe; pytest-xdist would narrow them to 80
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

_STEPS = 6
_KNOWN: dict[tuple[object, ...], Relations] = {}
_PROVED: dict[tuple[object, ...], tuple[str, ...]] = {}


@pytest.fixture
def known_relations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Relations are discovered once for all models of the same configuration and weights that a test quantizes."""
    from slmquant import quantization
    from slmquant.model.discovery import relations

    def discover(model: PreTrainedModel) -> Relations:
        weights = (zlib.crc32(tensor.float().numpy().tobytes()) for tensor in model.state_dict().values())
        key = (type(model), model.config.to_json_string(), *weights)
        if key not in _KNOWN:
            _KNOWN[key] = relations.discover(model)
        return _KNOWN[key]

    monkeypatch.setattr(quantization, "discover", discover)


@pytest.fixture
def known_tokenizers(monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp is asked once, not for every file, whether it tokenizes as a tokenizer does; a process is started."""
    from slmquant.formats.gguf import proof, writer

    def prove(path: Path, tokenizer: PreTrainedTokenizerBase, rows: int, accept: bool) -> tuple[str, ...]:
        key = (tokenizer.backend_tokenizer.to_str(), rows, accept)
        if key not in _PROVED:
            _PROVED[key] = proof.prove(path, tokenizer, rows, accept)
        return _PROVED[key]

    monkeypatch.setattr(writer, "prove", prove)


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Methods that learn take a few steps, and those that search try a few values: a contract on what comes out holds
    however far they got."""
    from slmquant.core import gptq
    from slmquant.core.awq import best_factors
    from slmquant.core.clip import clipped
    from slmquant.core.shrink import shrunk
    from slmquant.methods import (
        autoround,
        awq,
        omniquant,
        scale_tuning,
        smoothquant_plus,
        smoothquant_search,
        spinquant,
    )
    from slmquant.methods.common import activation_clip, learning
    from slmquant.methods.common.work import Work

    def learn(
        block: learning.LearningBlock,
        learner: learning.Learner[learning.T],
        schedule: learning.Schedule,
        work: Work,
    ) -> learning.T:
        return learning.learn(block, learner, replace(schedule, iterations=_STEPS), work)

    monkeypatch.setattr(autoround, "learn", learn)
    monkeypatch.setattr(omniquant, "learn", learn)
    monkeypatch.setitem(scale_tuning.SETTINGS, "fast", scale_tuning.Settings(_STEPS, looks=1))
    monkeypatch.setitem(spinquant.SCHEDULES, "fast", replace(spinquant.SCHEDULES["fast"], iterations=_STEPS))
    monkeypatch.setattr(smoothquant_plus, "ALPHAS", (0.1, 0.3, 0.5))
    monkeypatch.setattr(smoothquant_search, "STRENGTHS", (0.3, 0.6))
    monkeypatch.setattr(awq, "best_factors", partial(best_factors, ratios=(0.0, 0.3, 0.6)))
    monkeypatch.setattr(awq, "clipped", partial(clipped, ratios=(1.0, 0.8)))
    monkeypatch.setattr(gptq, "shrunk", partial(shrunk, ratios=(1.0, 0.9, 0.7)))
    monkeypatch.setattr(activation_clip, "RATIOS", (1.0, 0.9))
