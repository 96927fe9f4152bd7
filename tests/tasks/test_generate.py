"""Every text is the one that lm-eval's own backend writes, whatever else is asked beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from torch import Tensor

from slmquant.errors import NumericalError, RefusedError
from slmquant.tasks.common.contract import EvalContext
from slmquant.tasks.common.lm_eval.backend import ContextLM
from slmquant.tasks.common.writing import generate, prefix
from slmquant.testing.tiny import VOCABULARY, tiny

HEADER = "old birds read maps of salt under green stone the cold moon sings "
PROMPTS = [
    HEADER + "the river",
    HEADER + "moon",
    HEADER + "moon",  # asked twice
    HEADER + "walks while old birds walk under light and stone",
    HEADER * 4 + "longer than the context",
]


def _requests(prompts: Sequence[str], options: dict[str, Any]) -> list[Instance]:
    return [Instance("generate_until", {}, (prompt, options), index) for index, prompt in enumerate(prompts)]


def _ours(context: EvalContext, prompts: Sequence[str], options: dict[str, Any]) -> list[str]:
    return ContextLM(context, "t").generate_until(_requests(prompts, options))


def _theirs(context: EvalContext, prompts: Sequence[str], options: dict[str, Any]) -> list[str]:
    backend = HFLM(pretrained=context.model, tokenizer=context.tokenizer, batch_size=1, device="cpu")
    answers: list[str] = backend.generate_until(_requests(prompts, options), disable_tqdm=True)
    return answers


@pytest.mark.parametrize(
    "options",
    [
        {"until": ["\n"], "max_gen_toks": 20},
        {"until": ["e", "<s>"], "max_gen_toks": 20, "do_sample": False, "temperature": 0.0},
        {"until": ["st", "o"], "max_gen_toks": 12},
        {"max_gen_toks": 9},
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_texts_equal_those_of_lm_evals_own_backend(
    context: Callable[..., EvalContext], options: dict[str, Any], seed: int
) -> None:
    asked = context(seed)
    ours = _ours(asked, PROMPTS, options)
    assert ours == _theirs(asked, PROMPTS, options)
    assert any(ours)


def test_a_text_does_not_depend_on_its_neighbours(
    context: Callable[..., EvalContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, options = context(4), {"until": ["a"], "max_gen_toks": 16}
    together = _ours(asked, PROMPTS, options)
    assert together == [_ours(asked, [prompt], options)[0] for prompt in PROMPTS]
    monkeypatch.setattr(generate, "_BATCH_TOKENS", 1)  # a batch each, and the shared beginning still cached
    assert together == _ours(asked, PROMPTS, options)


def test_the_common_beginning_is_run_once(context: Callable[..., EvalContext], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = context()
    seen: list[int] = []
    asked.model.get_decoder().register_forward_pre_hook(
        lambda _, __, given: seen.append(given["input_ids"].numel()), with_kwargs=True
    )
    monkeypatch.setattr(prefix, "_SHORTEST_PREFIX", 1)
    prompts = [(*range(5, 45), end) for end in (50, 51, 52)]
    generate.continue_greedily(asked, "t", prompts, 1)
    assert seen == [40, 3]


def test_options_that_differ_are_heeded_apart(context: Callable[..., EvalContext]) -> None:
    asked = context(1)
    requests = [
        Instance("generate_until", {}, ("the cold moon", {"max_gen_toks": count}), index)
        for index, count in enumerate((3, 9, 3))
    ]
    short, long, again = ContextLM(asked, "t").generate_until(requests)
    assert short == again and long.startswith(short) and len(long) > len(short)


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2", "bloom", "opt", "gpt_neox"])
def test_a_shared_beginning_changes_no_token(
    context: Callable[..., EvalContext], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    asked = context(model=tiny(kind))
    draw = torch.Generator().manual_seed(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, VOCABULARY, (count,), generator=draw).tolist())

    beginning = tokens(20)
    prompts = [beginning + tokens(count) for count in (1, 5, 3, 27)]
    monkeypatch.setattr(prefix, "_SHORTEST_PREFIX", 1)
    shared = generate.continue_greedily(asked, "t", prompts, 8)
    monkeypatch.setattr(prefix, "_SHORTEST_PREFIX", 10**6)
    assert shared == [generate.continue_greedily(asked, "t", [prompt], 8)[0] for prompt in prompts]


def _likeliest(model: torch.nn.Module, prompt: Tensor, count: int) -> list[int]:
    """Greedy decoding the plain way: the whole text again for every token."""
    ids = prompt
    for _ in range(count):
        with torch.no_grad():
            ids = torch.cat((ids, model(input_ids=ids[None]).logits[0, -1].argmax()[None]))
    return [int(token) for token in ids[len(prompt) :]]


def test_every_token_is_the_likeliest(context: Callable[..., EvalContext]) -> None:
    asked = context(2)
    prompt = tuple(asked.tokenizer.encode(HEADER))
    (written,) = generate.continue_greedily(asked, "t", [prompt], 10)
    expected = _likeliest(asked.model, torch.tensor(prompt), 10)
    end = asked.tokenizer.eos_token_id
    assert written == expected[: expected.index(end) if end in expected else None]


def test_a_text_that_ends_is_shorter_than_it_may_be(context: Callable[..., EvalContext]) -> None:
    asked = context(2)
    prompt = tuple(asked.tokenizer.encode(HEADER))
    (written,) = generate.continue_greedily(asked, "t", [prompt], 10)
    asked.model.generation_config.eos_token_id = [written[4]]
    (ended,) = generate.continue_greedily(asked, "t", [prompt], 10)
    assert ended == written[: written.index(written[4])]


def test_sampled_answers_are_refused(context: Callable[..., EvalContext]) -> None:
    with pytest.raises(RefusedError, match="'t' samples its answers"):
        _ours(context(), ["moon"], {"do_sample": True, "temperature": 0.8, "max_gen_toks": 4})


def test_an_answer_longer_than_the_context_is_refused(context: Callable[..., EvalContext]) -> None:
    with pytest.raises(RefusedError, match="answers of 256 tokens, but the model's context is 64"):
        _ours(context(), ["moon"], {"until": ["\n"]})


def test_overflowing_weights_are_an_error(context: Callable[..., EvalContext]) -> None:
    asked = context()
    with torch.no_grad():
        asked.model.get_output_embeddings().weight[7].fill_(float("nan"))
    with pytest.raises(NumericalError, match="logits of 2 of 2 texts of 't' are not finite"):
        _ours(asked, ["the cold moon", "old birds"], {"max_gen_toks": 4})


def test_prompts_that_are_cut_are_counted(context: Callable[..., EvalContext]) -> None:
    backend = ContextLM(context(), "t")
    backend.generate_until(_requests(PROMPTS, {"max_gen_toks": 20}))
    lengths = [len(backend.tok_encode(prompt)) for prompt in PROMPTS]
    cut = [length - 44 for length in lengths if length > 44]
    assert 0 < len(cut) < len(PROMPTS)
    (remark,) = backend.remarks
    assert f"{len(cut)} of {len(PROMPTS)} items are longer" in remark and f"and {max(cut)} at most" in remark
