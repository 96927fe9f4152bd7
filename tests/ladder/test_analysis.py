"""What cells of a ladder show: known constants are found again, and too little tells nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slmquant.analysis.fixed_parts import fixed_parts
from slmquant.analysis.ladder import FEWEST_ROUNDS, ladder
from slmquant.errors import StoreError
from slmquant.ladder.rungs import RUNGS, WIDTHS
from slmquant.report.ladder import document_ladder, ladder_tables
from slmquant.report.published import fill_in
from slmquant.store.jsonlines import write_cells
from tests import invented
from tests.ladder.planted import Planted

SIZES = ("15m", "135m", "500m")
FOUR_BITS = 16 / 4.5


def planted(sizes: tuple[str, ...] = SIZES, noise: float = 0.02, others: float = 0.0, **size: float) -> Planted:
    cells = Planted(noise, others)
    for name in sizes:
        cells.size(name, **size)  # type: ignore[arg-type]  # numbers only
    return cells


def test_the_fit_finds_known_constants() -> None:
    (one,) = planted(noise=0.0, fixed_s=2e-3, bytes_per_s=4e9, own_bytes=3e7).found().engines

    assert one.times is not None and one.memory is not None
    for time, memory, name in zip(one.times.sizes, one.memory.sizes, SIZES, strict=True):
        rung = RUNGS[name]
        whole = 2e-3 + 2 * rung.parameters / 4e9
        assert time.size == memory.size == name
        assert time.whole == pytest.approx(whole)
        assert time.fixed.value == pytest.approx(2e-3) and time.share.value == pytest.approx(2e-3 / whole)
        assert 1 / time.per_byte.value == pytest.approx(4e9)
        assert memory.fixed.value - rung.cache_bytes(512) == pytest.approx(3e7)
        assert memory.per_byte.value == pytest.approx(1)


def test_a_size_may_have_constants_of_its_own() -> None:
    cells = Planted()
    for name, fixed_s in zip(SIZES, (1e-3, 2e-3, 9e-3), strict=True):
        cells.size(name, fixed_s)

    times = cells.found().engines[0].times
    assert times is not None
    assert [time.fixed.value for time in times.sizes] == pytest.approx([1e-3, 2e-3, 9e-3])


def test_intervals_of_shares_hold_the_truth_of_all_sizes_together() -> None:
    """95 % of the time: of 60 ladders 3 may miss, and more than 9 hardly ever do."""
    missed = 0
    for seed in range(60):
        cells = Planted(noise=0.1, seed=seed)
        for name in SIZES:
            cells.size(name, fixed_s=4e-3)
        truths = [4e-3 / (4e-3 + 2 * RUNGS[name].parameters / 5e9) for name in SIZES]
        times = cells.found().engines[0].times
        assert times is not None
        missed += any(
            time.share.interval is None or truth not in time.share.interval
            for time, truth in zip(times.sizes, truths, strict=True)
        )

    assert missed <= 9


def test_what_is_realised_of_a_gain_is_what_was_planted() -> None:
    (one,) = planted(noise=0.01, fixed_s=8e-3).found().engines
    gains = {(gain.quantity, gain.size, gain.bits): gain for gain in one.gains}
    assert len(gains) == len(one.gains) == 3 * 2 * len(SIZES)

    for name in SIZES:
        full = 2 * RUNGS[name].parameters / 5e9
        truth = ((8e-3 + full) / (8e-3 + full / FOUR_BITS) - 1) / (FOUR_BITS - 1)
        gain = gains["decode", name, 4]
        assert gain.ideal == pytest.approx(FOUR_BITS)
        assert gain.realised.interval is not None and truth in gain.realised.interval
        assert gain.verdict == ("carries over" if truth > 0.8 else "in part" if truth > 0.2 else "hardly")


def test_gains_of_many_bytes_carry_over_and_those_of_a_fixed_time_do_not() -> None:
    (fast,) = planted(fixed_s=1e-6).found().engines
    (slow,) = planted(fixed_s=10.0).found().engines

    assert {gain.verdict for gain in fast.gains if gain.quantity == "decode"} == {"carries over"}
    assert {gain.verdict for gain in slow.gains if gain.quantity == "decode"} == {"hardly"}


def test_too_few_sizes_cannot_tell_what_no_bit_width_saves() -> None:
    (one,) = planted(("15m", "135m")).found().engines

    assert one.times is None and one.memory is None
    assert any("cannot tell" in remark and "2 sizes" in remark for remark in one.remarks)
    of_memory = [gain for gain in one.gains if gain.quantity == "memory"]
    assert {(gain.verdict, gain.why) for gain in of_memory} == {("cannot tell", "too few sizes")}
    assert "fixed llamacpp" not in ladder_tables(planted(("15m", "135m")).found())


def test_a_size_that_lacks_a_width_is_no_line_but_its_gain_is_shown() -> None:
    cells = planted()
    cells.size("42m", widths=tuple(WIDTHS)[:2])
    (one,) = cells.found().engines

    assert one.times is not None
    assert [time.size for time in one.times.sizes] == list(SIZES)
    assert [gain.bits for gain in one.gains if gain.size == "42m" and gain.quantity == "decode"] == [8]


def test_without_16_bits_nothing_is_compared() -> None:
    cells = Planted()
    cells.size("42m", widths=tuple(WIDTHS)[1:])

    assert cells.found().engines[0].gains == ()


def test_no_verdict_on_times_where_others_used_the_processor() -> None:
    (one,) = planted(fixed_s=1e-6, others=0.3).found().engines
    of_times = [gain for gain in one.gains if gain.quantity != "memory"]

    assert {(gain.verdict, gain.why) for gain in of_times} == {("cannot tell", "others took 30% of the processor")}
    assert any("quiet machine" in remark for remark in one.remarks)


def test_rounds_that_differ_much_cannot_tell() -> None:
    (one,) = planted(noise=2.0, fixed_s=1e-6).found().engines

    assert {gain.verdict for gain in one.gains if gain.quantity == "decode"} == {"cannot tell"}


def test_few_rounds_have_no_interval() -> None:
    cells = Planted(noise=0.02, rounds=FEWEST_ROUNDS - 1)
    cells.size("15m")
    gains = [gain for gain in cells.found().engines[0].gains if gain.quantity == "decode"]

    assert {(gain.verdict, gain.why, gain.measured.interval) for gain in gains} == {
        ("cannot tell", "too few rounds", None)
    }


def test_machines_are_shown_apart() -> None:
    cells = planted()
    other = invented.ENVIRONMENT.model_copy(update={"threads": 1})
    cells.size("15m", engine="onnxruntime")
    cells.size("15m", engine="openvino", environment=other)
    found = cells.found()

    assert [one.engine for one in found.engines] == ["llamacpp", "onnxruntime", "openvino"]
    assert found.engines[2].machine == f"{other.cpu}, 1 thread"


def test_cells_that_failed_are_told() -> None:
    cells = planted(("15m",))
    spec = RUNGS["42m"].cells("llamacpp")["W16A16"]
    failed = invented.record(spec.method, spec.scheme, status="out_of_memory", reason="killed at 9 GB", cell=spec)
    cells.records.append(failed.model_copy(update={"model": RUNGS["42m"].card}))

    assert f"{spec.label}: out of memory: killed at 9 GB" in cells.found().engines[0].remarks


def test_cells_of_other_models_are_ignored_and_alone_are_refused() -> None:
    cells = planted()
    known = len(cells.found().engines[0].files)
    cells.records += invented.benchmark()

    assert len(cells.found().engines[0].files) == known
    with pytest.raises(StoreError, match="slmquant ladder"):
        ladder(invented.benchmark(), lambda _: [])


def test_the_result_is_json() -> None:
    written = json.loads(json.dumps(planted().found().as_json()))

    assert written["engines"][0]["gains"][0]["quantity"] == "decode"


def test_documents_show_published_cells(tmp_path: Path) -> None:
    cells = planted()
    write_cells(cells.records, cells.items, tmp_path / "here.jsonl")
    text = "<!-- ladder here.jsonl decode llamacpp -->\n<!-- end -->"

    assert "| 135m |" in fill_in(text, tmp_path) and "carries over" in fill_in(text, tmp_path)
    with pytest.raises(StoreError, match="fixed llamacpp"):
        document_ladder(tmp_path / "here.jsonl", "decode abacus")


def test_every_row_has_a_field_for_every_head() -> None:
    tables = ladder_tables(planted().found())

    assert [name.split()[0] for name in tables] == ["speeds", "decode", "prefill", "memory", "fixed"]
    for table in tables.values():
        assert table.rows and all(len(row) == len(table.heads) for row in table.rows)


def test_an_error_is_pooled_over_sizes() -> None:
    """A size whose points lie on a line is as uncertain as its neighbours are, relative to its value."""
    exact = [(4.0, 5.0), (2.0, 3.0), (1.0, 2.0)]
    off = [(4.0, 5.5), (2.0, 2.7), (1.0, 2.1)]
    parts = fixed_parts({"exact": exact, "off": off, "also": exact})

    assert parts.freedom == 3 and parts.error > 0
    first = parts.sizes[0]
    assert first.fixed.value == pytest.approx(1) and first.fixed.interval is not None
    assert first.fixed.interval.high > first.fixed.value > first.fixed.interval.low
