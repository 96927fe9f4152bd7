"""Expected costs follow from recorded ones, scaled; what no record tells is unknown."""

from __future__ import annotations

import pytest

from slmquant.analysis.estimates import Costs
from slmquant.store.record import CalibrationSpec, Phase, Record, TaskSpec
from tests.invented import MODEL, record

PARAMETERS = MODEL.parameters


def measured(method: str, scheme: str, capture: float, quantize: float, evaluate: float, peak: int = 10**9) -> Record:
    names = {"load": 1.0, "capture": capture, "quantize": quantize, "evaluate": evaluate}
    phases = tuple(
        Phase(name=name, seconds=2 * cpu, cpu_s=cpu, peak_rss_bytes=peak) for name, cpu in names.items() if cpu
    )
    return record(method, scheme).model_copy(update={"phases": phases})


def test_a_repeated_cell_costs_what_it_cost() -> None:
    known = measured("gptq", "W4A16g64", 10, 5, 20)
    estimate = Costs([known, measured("rtn", "W8A8", 0, 1, 50)]).estimate(known.spec, PARAMETERS)

    assert estimate.cpu_s == pytest.approx(36)
    assert estimate.capture_s == pytest.approx(10)
    assert (estimate.peak_bytes, estimate.records) == (10**9, 1)


def test_parts_scale_with_parameters_tokens_and_items() -> None:
    known = measured("gptq", "W4A16g64", 10, 5, 20)
    spec = known.spec.model_copy(
        update={
            "calibration": CalibrationSpec(num_samples=256),
            "tasks": tuple(task.model_copy(update={"limit": 3 * (task.limit or 0)}) for task in known.spec.tasks),
        }
    )
    estimate = Costs([known]).estimate(spec, 2 * PARAMETERS)

    assert estimate.cpu_s == pytest.approx(2 * (1 + 5 + 2 * 10 + 3 * 20))
    assert estimate.peak_bytes is None  # of a model of another size


def test_evaluation_is_learned_from_other_methods_at_the_same_scheme() -> None:
    records = [measured("gptq", "W8A8", 10, 5, 20), measured("rtn", "W4A16g64", 0, 1, 70), record("none", "W16A16")]
    spec = records[0].spec.model_copy(update={"scheme": "W4A16g64"})

    assert Costs(records).estimate(spec, PARAMETERS).cpu_s == pytest.approx(10 + 1 + 5 + 70)


@pytest.mark.parametrize(
    "change",
    [
        {"method": "awq"},
        {"budget": "paper"},
        {"device": "cuda"},
        {"compute_dtype": "bfloat16_all"},
        {"tasks": (TaskSpec(name="piqa", limit=5),)},
        {
            "tasks": (
                TaskSpec(name="wikitext2"),
                TaskSpec(name="arc_easy", limit=3),
                TaskSpec(name="hellaswag", limit=3),
            )
        },
    ],
)
def test_what_no_record_tells_is_unknown(change: dict[str, object]) -> None:
    known = measured("gptq", "W4A16g64", 10, 5, 20)

    assert Costs([known]).estimate(known.spec.model_copy(update=change), PARAMETERS).cpu_s is None
