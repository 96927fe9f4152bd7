"""Every answer is lm-eval's own: the same log-likelihood, the same greedy verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import LlamaForCausalLM, PreTrainedModel

from slmquant.errors import NumericalError, RefusedError
from slmquant.tasks.common import contract
from slmquant.tasks.common.contract import EvalContext
from slmquant.tasks.common.lm_eval.backend import ContextLM

PAIRS = [
    ("the cold moon", " sings"),
    ("the cold moon", " walks under green stone"),
    ("the cold moon ", "sings"),  # a trailing space belongs to the continuation
    ("the cold moon", " sings"),  # asked twice
    ("", "old birds read maps"),
    ("", "<s> old birds"),
    ("<s>the river", " of salt"),
    ("under green stone the a cold moon " * 9, " walks while old birds"),  # longer than the context
    ("A?", " A"),
    ("A?", " B"),
]


def _requests(kind: str, arguments: Sequence[tuple[str, ...]]) -> list[Instance]:
    return [Instance(kind, {}, argument, index) for index, argument in enumerate(arguments)]


def _theirs(context: EvalContext, batch_size: int = 1) -> HFLM:
    return HFLM(pretrained=context.model, tokenizer=context.tokenizer, batch_size=batch_size, device="cpu")


def test_answers_equal_those_of_lm_evals_own_backend(context: Callable[..., EvalContext]) -> None:
    asked = context()
    requests = _requests("loglikelihood", PAIRS)
    ours = ContextLM(asked, "t").loglikelihood(requests)
    theirs = _theirs(asked).loglikelihood(requests, disable_tqdm=True)
    torch.testing.assert_close(
        torch.tensor([value for value, _ in ours]),
        torch.tensor([value for value, _ in theirs]),
        atol=1e-4,
        rtol=0,
    )
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]


def test_the_greedy_verdict_is_true_for_what_the_model_would_say(context: Callable[..., EvalContext]) -> None:
    asked = context()
    ids = torch.tensor([asked.tokenizer.encode("the cold moon")])
    with torch.no_grad():
        word = str(asked.tokenizer.decode(asked.model(input_ids=ids).logits[0, -1].argmax()))
    ours = ContextLM(asked, "t").loglikelihood(_requests("loglikelihood", [("the cold moon", word)]))
    assert [greedy for _, greedy in ours] == [True]


def test_whole_texts_equal_those_of_lm_evals_own_backend(context: Callable[..., EvalContext]) -> None:
    asked = context()
    requests = _requests("loglikelihood_rolling", [("old birds read maps of salt " * 12,), ("moon",)])
    ours = ContextLM(asked, "t").loglikelihood_rolling(requests)
    theirs = _theirs(asked).loglikelihood_rolling(requests, disable_tqdm=True)
    assert ours == pytest.approx(theirs, abs=1e-3)


def test_answers_do_not_depend_on_what_else_is_asked(context: Callable[..., EvalContext]) -> None:
    backend = ContextLM(context(), "t")
    together = backend.loglikelihood(_requests("loglikelihood", PAIRS))
    alone = [backend.loglikelihood(_requests("loglikelihood", [pair]))[0] for pair in PAIRS]
    assert [value for value, _ in together] == pytest.approx([value for value, _ in alone], abs=1e-4)


def _tokens_run(model: PreTrainedModel, run: Callable[[], object]) -> int:
    """Tokens that `model` embeds while `run` lasts, padding included."""
    seen = []
    embedding = model.get_input_embeddings()
    hook = embedding.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numel()))
    run()
    hook.remove()
    return sum(seen)


def test_what_inputs_share_is_run_once(context: Callable[..., EvalContext]) -> None:
    asked = context()
    backend = ContextLM(asked, "t")
    ContextLM(asked, "s").loglikelihood(_requests("loglikelihood", PAIRS[:1]))  # tries once for all tasks if it shares
    letters = _requests("loglikelihood", [("Is it?", f" {letter}") for letter in "ABCD"])
    question = len(backend.tok_encode("Is it? A")) - 1
    assert _tokens_run(asked.model, lambda: backend.loglikelihood(letters)) == question
    shared, ends = "under green stone the a cold moon " * 2, ("walks", "sings", "reads")
    options = _requests("loglikelihood", [(shared, end) for end in ends])
    lengths = [len(backend.tok_encode(shared + end)) for end in ends]
    assert _tokens_run(asked.model, lambda: backend.loglikelihood(options)) < sum(lengths) / 2


def test_examples_before_many_questions_are_run_once(
    tiny_model: Callable[..., LlamaForCausalLM], context: Callable[..., EvalContext]
) -> None:
    asked = context(model=tiny_model(3, max_position_embeddings=1024))
    examples = "old birds read maps of salt under green stone . " * 12
    words = ["moon", "river", "salt", "stone", "bird", "map"]
    questions = [
        (f"{examples}the {a} {b} {c}", end) for a in words for b in words for c in words for end in (" A", " B")
    ]
    requests = _requests("loglikelihood", questions)
    backend = ContextLM(asked, "t")
    ours: list[tuple[float, bool]] = []
    once = len(backend.tok_encode(examples))
    assert once > 96
    run = _tokens_run(asked.model, lambda: ours.extend(backend.loglikelihood(requests)))
    assert run < once + 216 * 8 + 500  # the trial whether the model shares takes some, too
    theirs = _theirs(asked, batch_size=16).loglikelihood(requests, disable_tqdm=True)
    assert [value for value, _ in ours] == pytest.approx([value for value, _ in theirs], abs=1e-4)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]


def test_models_that_cannot_share_answer_the_same(context: Callable[..., EvalContext], monkeypatch: Any) -> None:
    asked = context()
    requests = _requests("loglikelihood", PAIRS)
    sharing = ContextLM(asked, "t").loglikelihood(requests)
    monkeypatch.setattr(contract, "longest_shared", lambda _: 0)
    alone = ContextLM(replace(asked), "t").loglikelihood(requests)
    assert [value for value, _ in sharing] == pytest.approx([value for value, _ in alone], abs=1e-4)


def test_overflowing_weights_are_an_error(context: Callable[..., EvalContext]) -> None:
    asked = context()
    with torch.no_grad():
        asked.model.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(NumericalError, match="log-likelihood of 't' is nan"):
        ContextLM(asked, "t").loglikelihood(_requests("loglikelihood", PAIRS[:2]))


def test_an_option_without_text_is_named(context: Callable[..., EvalContext]) -> None:
    with pytest.raises(RefusedError, match="has an answer without text"):
        ContextLM(context(), "t").loglikelihood(_requests("loglikelihood", [("the cold moon", "")]))
