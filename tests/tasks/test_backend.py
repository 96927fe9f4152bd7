"""Every answer is lm-eval's own: the same log-likelihood, the same greedy verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from slmquant.errors import NumericalError
from slmquant.tasks._backend import ContextLM
from slmquant.tasks._base import EvalContext

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
        word = asked.tokenizer.decode(asked.model(input_ids=ids).logits[0, -1].argmax())
    ours = ContextLM(asked, "t").loglikelihood(_requests("loglikelihood", [("the cold moon", word)]))
    assert ours == [(pytest.approx(ours[0][0]), True)]


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


def test_equal_inputs_are_run_once(context: Callable[..., EvalContext], monkeypatch: pytest.MonkeyPatch) -> None:
    backend = ContextLM(context(), "t")
    run = []
    body = backend._head.hidden
    monkeypatch.setattr(backend._head, "hidden", lambda ids: run.append(len(ids)) or body(ids))
    backend.loglikelihood(_requests("loglikelihood", [("Is it?", f" {letter}") for letter in "ABCD"]))
    assert sum(run) == 1


def test_overflowing_weights_are_an_error(context: Callable[..., EvalContext]) -> None:
    asked = context()
    with torch.no_grad():
        asked.model.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(NumericalError, match="log-likelihood of 't' is nan"):
        ContextLM(asked, "t").loglikelihood(_requests("loglikelihood", PAIRS[:2]))
