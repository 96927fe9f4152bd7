"""The same questions to the real model through both backends, in float32."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from slmquant.errors import SlmquantError
from slmquant.model.computing.modes import FLOAT32
from slmquant.store.record import TaskSpec
from slmquant.tasks import resolve
from slmquant.tasks.common.contract import EvalContext
from slmquant.tasks.common.lm_eval import task as lm_eval_task

pytestmark = pytest.mark.real_model


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> EvalContext:
    from slmquant.model.sources.load import load

    data = Path(os.environ.get("SLMQUANT_DATA") or Path(__file__).parents[3] / "shared" / "data")
    if not (data / "lm_eval").is_dir():
        pytest.skip("no local folder of data; set SLMQUANT_DATA")
    try:
        loaded = load("smollm2-135m-instruct")
    except SlmquantError as error:
        pytest.skip(f"the model is not here: {error}")
    return EvalContext(
        model=loaded.model,
        mode=FLOAT32,
        tokenizer=loaded.tokenizer,
        model_sha256=loaded.sha256,
        cache_dir=tmp_path_factory.mktemp("cache"),
        data_dir=data,
        is_reference=True,
    )


@pytest.mark.parametrize(
    ("name", "shots", "items", "options"), [("arc_easy", 0, 20, 4), ("hellaswag", 0, 10, 4), ("mmlu_anatomy", 5, 8, 4)]
)
def test_answers_equal_those_of_lm_evals_own_backend_on_real_items(
    asked: EvalContext, name: str, shots: int, items: int, options: int
) -> None:
    from lm_eval.models.huggingface import HFLM

    from slmquant.tasks.common.lm_eval.backend import ContextLM

    found_task = resolve(TaskSpec(name=name))
    assert isinstance(found_task, lm_eval_task.LmEvalTask)
    with lm_eval_task._quiet():
        built = lm_eval_task._build(found_task, asked)
        lm_eval_task._select_(built.subtasks, TaskSpec(name=name), 0, items)
        subtask = built.subtasks[name]
        subtask.set_config("num_fewshot", shots)  # behind five examples, questions share a cached beginning
        subtask.build_all_requests()
    # In float32, lm-eval's log-softmax alone is off by up to 3e-4 from a float64 one; ours is off by 2e-5.
    theirs = HFLM(
        pretrained=asked.model,
        tokenizer=asked.tokenizer,
        batch_size=4,
        device="cpu",
        softmax_dtype="float64",
    )
    expected = theirs.loglikelihood(subtask.instances, disable_tqdm=True)
    found = ContextLM(asked, name).loglikelihood(subtask.instances)
    assert len(found) == items * options
    torch.testing.assert_close(
        torch.tensor([value for value, _ in found]),
        torch.tensor([value for value, _ in expected]),
        atol=1e-4,
        rtol=0,
    )
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def test_written_answers_equal_those_of_lm_evals_own_backend(asked: EvalContext) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from slmquant.tasks.common.lm_eval.backend import ContextLM

    header = "".join(f"Question: What is {a} plus {a}?\nAnswer: {a + a}\n\n" for a in range(2, 7))
    options = {"until": ["\n\n", "Question:"], "max_gen_toks": 16}
    questions = ("What is 7 plus 7?", "Which animal says meow?", "Where does the sun rise, and why does it do so?")
    requests = [
        Instance("generate_until", {}, (f"{header}Question: {question}\nAnswer:", options), index)
        for index, question in enumerate(questions)
    ]
    theirs = HFLM(pretrained=asked.model, tokenizer=asked.tokenizer, batch_size=1, device="cpu")
    expected = theirs.generate_until(requests, disable_tqdm=True)
    assert ContextLM(asked, "t").generate_until(requests) == expected
    assert all(expected)
