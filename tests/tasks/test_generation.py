"""The generation check: figures are those of the texts that it keeps."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM

from slmquant.cache.entries import CONTENT
from slmquant.errors import CacheError, DataError, NumericalError
from slmquant.store.record import TaskSpec
from slmquant.tasks import has_reference, known, reference_path, resolve
from slmquant.tasks.common.contract import EvalContext, TaskResult
from slmquant.tasks.common.writing import generation
from slmquant.tasks.common.writing.generation import prompt_tokens
from slmquant.tasks.common.writing.prompts import PROMPTS

Build = Callable[..., EvalContext]
SPEC = TaskSpec(name="generation")
TEMPLATE = "{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}[assistant]"


def _run(context: EvalContext, spec: TaskSpec = SPEC) -> TaskResult:
    return resolve(spec).run(context, spec)


def _values(result: TaskResult) -> dict[str, float]:
    return {metric.name: metric.value for metric in result.metrics}


@pytest.fixture
def wide(tiny_model: Callable[[int], LlamaForCausalLM]) -> Callable[[int], LlamaForCausalLM]:
    """The tiny model, with room for whole prompts."""

    def build(seed: int) -> LlamaForCausalLM:
        model = tiny_model(seed)
        model.config.max_position_embeddings = 512
        return model

    return build


def test_the_task_is_known_by_name() -> None:
    assert "12 fixed prompts" in known()["generation"]
    assert len({prompt.name for prompt in PROMPTS}) == len(PROMPTS) == 12


def test_figures_are_means_over_the_texts(context: Build, wide: Callable[[int], LlamaForCausalLM]) -> None:
    _run(context(model=wide(0), is_reference=True))
    result = _run(context(model=wide(1)))
    assert len(result.items) == 12 and all(item.text is not None for item in result.items)
    for metric in result.metrics:
        values = [item.values[metric.name] for item in result.items if metric.name in item.values]
        assert metric.value == pytest.approx(statistics.fmean(values)) and metric.n == len(values)
        assert metric.stderr == pytest.approx(statistics.stdev(values) / len(values) ** 0.5)
    assert {metric.name for metric in result.metrics} == {
        "repeated_4grams", "loop_tokens", "ends_in_loop", "ended", "common_prefix_tokens", "same_text",
    }  # fmt: skip


def test_full_precision_agrees_with_itself_and_says_nothing_of_it(
    context: Build, wide: Callable[[int], LlamaForCausalLM]
) -> None:
    reference = _run(context(model=wide(0), is_reference=True))
    assert "same_text" not in _values(reference)
    again = _run(context(model=wide(0)))
    assert _values(again)["same_text"] == 1
    assert [item.text for item in again.items] == [item.text for item in reference.items]


@pytest.mark.parametrize(
    ("tokens", "reference", "common", "same"),
    [
        ([5, 6, 7, 8], [5, 6, 7, 8], 4, 1),
        ([5, 6, 9, 8], [5, 6, 7, 8], 2, 0),
        ([5, 6], [5, 6, 7, 8], 2, 0),  # it ended sooner
        ([9], [5, 6], 0, 0),
        ([], [], 0, 1),  # both ended at once
    ],
)
def test_agreement_is_counted_to_the_first_token_that_differs(
    tokens: list[int], reference: list[int], common: int, same: int
) -> None:
    values = generation._values(tokens, 96, reference)
    assert (values["common_prefix_tokens"], values["same_text"]) == (common, same)


def test_a_changed_model_leaves_its_original(context: Build, wide: Callable[[int], LlamaForCausalLM]) -> None:
    _run(context(model=wide(0), is_reference=True))
    changed = wide(0)
    with torch.no_grad():
        changed.model.layers[1].mlp.down_proj.weight.mul_(0.5)
    values = _values(_run(context(model=changed)))
    assert values["same_text"] < 1 and 0 <= values["common_prefix_tokens"] < 96


def test_a_model_that_repeats_itself_is_caught(context: Build, wide: Callable[[int], LlamaForCausalLM]) -> None:
    stuck = wide(0)
    with torch.no_grad():
        stuck.model.norm.weight.zero_()  # every logit is the same, so the first token is the likeliest, for ever
    stuck.generation_config.eos_token_id = None
    asked = context(model=stuck, is_reference=True)
    asked.tokenizer = type(asked.tokenizer)(tokenizer_object=asked.tokenizer.backend_tokenizer)  # no end of text
    values = _values(_run(asked))
    assert values["ends_in_loop"] == 1 and values["loop_tokens"] == 96 and values["ended"] == 0
    assert values["repeated_4grams"] == pytest.approx(92 / 93)


def test_penalties_of_the_model_are_left_out(context: Build, wide: Callable[[int], LlamaForCausalLM]) -> None:
    plain, penalized = wide(2), wide(2)
    penalized.generation_config.repetition_penalty = 1.8
    first = _run(context(model=plain, is_reference=True))
    second = _run(context(model=penalized, is_reference=True))
    assert [item.text for item in first.items] == [item.text for item in second.items]


def test_the_full_precision_model_comes_first(context: Build, wide: Callable[[int], LlamaForCausalLM]) -> None:
    asked = context(model=wide(1))
    assert not has_reference(asked.reference_key, SPEC)
    with pytest.raises(DataError, match="measure the unquantized model on generation first"):
        _run(asked)
    _run(context(model=wide(0), is_reference=True))
    assert has_reference(asked.reference_key, SPEC) and not has_reference(
        asked.reference_key, TaskSpec(name="generation", limit=3)
    )
    entry = reference_path(asked.reference_key, SPEC)
    assert entry is not None
    (entry / CONTENT).write_text("[]")
    with pytest.raises(CacheError, match="measure the unquantized model on generation first"):
        _run(asked)
    assert not entry.exists()


def test_a_limit_takes_the_first_prompts(context: Build, wide: Callable[[int], LlamaForCausalLM]) -> None:
    result = _run(context(model=wide(0), is_reference=True), TaskSpec(name="generation", limit=3))
    assert [item.item for item in result.items] == [prompt.name for prompt in PROMPTS[:3]]
    assert "3 of 12 prompts" in str(result.metrics[0].protocol) and result.data[0].rows == 12


def test_a_short_context_gets_shorter_texts(context: Build) -> None:
    result = _run(context(is_reference=True))  # 64 tokens
    assert "up to 32 new tokens" in str(result.metrics[0].protocol)


def test_questions_go_through_the_chat_template(context: Build) -> None:
    tokenizer = context().tokenizer
    question = next(prompt for prompt in PROMPTS if prompt.is_question)
    assert tokenizer.decode(list(prompt_tokens(tokenizer, question))) == f"Question: {question.text}\nAnswer:"
    chatty = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, chat_template=TEMPLATE)
    assert chatty.decode(list(prompt_tokens(chatty, question))) == f"[user] {question.text}\n[assistant]"
    beginning = replace(question, is_question=False)
    assert chatty.decode(list(prompt_tokens(chatty, beginning))) == question.text


def test_overflowing_weights_are_an_error(context: Build) -> None:
    asked = context(is_reference=True)
    with torch.no_grad():
        asked.model.get_output_embeddings().weight[3].fill_(float("inf"))
    with pytest.raises(NumericalError, match="texts of 'generation' are not finite"):
        _run(asked)
