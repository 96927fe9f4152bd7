"""A bench on engines: every cell exported, measured beside full precision, and a row of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from slmquant import engines
from slmquant.engines.common.contract import EngineStatus
from slmquant.errors import PlanError
from slmquant.machine.process import Failure
from slmquant.report._sections import sections
from slmquant.runs.engine_cells import absence, groups
from slmquant.runs.plan import make_plan
from slmquant.runs.rows import Event
from slmquant.runs.runner import run
from slmquant.store import Record, Store
from slmquant.store.record import CellSpec

ENGINES = ["llamacpp", "onnxruntime", "openvino"]
FIELDS = {
    "methods": ["rtn"],
    "schemes": ["W8A16g32", "W8A16KV8g32"],
    "tasks": ["tinystories:2"],
    "dtype": "float32",
    "calibration": {"corpus": "tinystories", "num_samples": 2, "seq_len": 64},
    "engine_rounds": 1,
}


def test_a_cell_without_an_engine_is_the_cell_that_it_always_was() -> None:
    spec = CellSpec(model="m", model_sha256="0", method="rtn", scheme="W8A8")
    assert "engine" not in spec.model_dump()
    assert CellSpec.model_validate(spec.on("llamacpp").model_dump()) == spec.on("llamacpp")
    assert spec.on("llamacpp").cell_id != spec.cell_id
    assert spec.on("llamacpp").label == "m/rtn/W8A8/llamacpp"


def test_an_unknown_engine_is_told_before_anything_runs() -> None:
    with pytest.raises((PlanError, Exception), match="unknown engine 'lamacpp'"):
        make_plan(FIELDS | {"models": ["tiny"], "engines": ["lamacpp"]})


def test_an_engine_that_is_not_there_fails_the_row_so_that_it_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing:
        def status(self) -> EngineStatus:
            return EngineStatus(False, reason="it is not installed; pip install it")

    monkeypatch.setattr(engines, "load", lambda name: Missing())
    assert absence("missing") == Failure("failed", "missing: it is not installed; pip install it")


def test_as_many_cells_are_open_at_once_as_fit_into_memory() -> None:
    full, *cells = (CellSpec(model="m", model_sha256="0", method=m, scheme="W8A8") for m in ("none", *"abcd"))
    sizes = {full: 40, **dict.fromkeys(cells, 10)}
    a, b, c, d = cells

    assert groups(sizes, full, 6 * 80) == [[full, a, b, c, d]]
    assert groups(sizes, full, 6 * 60) == [[full, a, b], [full, c, d]]
    assert groups(sizes, full, 0) == [[full, a], [full, b], [full, c], [full, d]]
    assert groups(dict.fromkeys(cells, 10), None, 6 * 25) == [[a, b], [c, d]]
    assert groups({full: 40}, full, 0) == [[full]]
    assert groups({}, None, 100) == []


@pytest.mark.real_model
def test_cells_are_measured_on_engines_and_what_one_cannot_do_is_a_row(data_dir: Path, tmp_path: Path) -> None:
    missing = [name for name in ENGINES if absence(name) is not None]
    if missing:
        pytest.skip(f"not usable here: {', '.join(missing)}; pip install 'slmquant[engines]'")
    plan = make_plan(FIELDS | {"models": ["stories15m"], "engines": ENGINES})
    with Store(tmp_path / "results.sqlite") as store:
        first = run(plan, store, data_dir=data_dir)
        told: list[Event] = []
        again = run(plan, store, data_dir=data_dir, tell=told.append)

    found = {(r.spec.engine, r.spec.scheme): r for r in first.records}
    assert set(found) == {
        (engine, scheme) for engine in (None, *ENGINES) for scheme in ("W16A16", "W8A16g32", "W8A16KV8g32")
    }
    assert again.skipped == len(again.records) == 12 and all("done before" in event.text for event in told[1:])
    (section,) = sections(first.records)
    (cell,) = [cell for cell in section.quantized if cell.record.spec.scheme == "W8A16g32"]
    assert section.engines == ENGINES
    for engine in ENGINES:
        rounded_cache = found[engine, "W8A16KV8g32"]
        assert rounded_cache.status == "refused" and "cache" in (rounded_cache.reason or "")
        full, eight_bits = found[engine, "W16A16"], found[engine, "W8A16g32"]
        assert full.status == eight_bits.status == "ok", engine
        assert value(eight_bits, "artifact_bytes") < value(full, "artifact_bytes")
        assert value(eight_bits, "parity_kl_mean") < 0.01
        assert value(eight_bits, "decode_tokens_per_s@0") > 0 and value(eight_bits, "decode_speedup@0") > 0
        assert cell.engines[engine].record == eight_bits
        assert rounded_cache in section.failures


def value(record: Record, name: str) -> float:
    metric = record.metric(name)
    assert metric is not None, f"{name} is not among {[m.name for m in record.metrics]}"
    return metric.value
