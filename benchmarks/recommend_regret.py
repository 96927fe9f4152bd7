"""How far the first choice of `slmquant recommend` lies from the best of an exhaustive sweep.

The cells of the published files are the sweep: for each model, every method and scheme that was measured on the same
windows. The search starts without any cell of the model, with what it has learned from the cells of the others alone,
and measures by reading cells, at the cost that they recorded, until its minutes are spent. Its first choice, and two
constant rules, are compared with the best cell that fits: the difference of log divergences, as a factor minus one.

    python benchmarks/recommend_regret.py --output results/published/recommend_regret.json
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from printed import write_printed
from rich.console import Console
from rich.table import Table

from slmquant.analysis.estimates import Costs
from slmquant.machine.process import Failure
from slmquant.measuring.search import Search
from slmquant.recommendation.advise import advise
from slmquant.recommendation.candidate import Candidate
from slmquant.recommendation.evidence import Evidence, Observed, gather
from slmquant.recommendation.prior import Prior, gains_of
from slmquant.recommendation.question import ask
from slmquant.recommendation.ranking import rank
from slmquant.recommendation.schedule import Schedule, Sizing
from slmquant.recommendation.space import Proposal
from slmquant.store.jsonlines import read_cells
from slmquant.store.record import CalibrationSpec, ItemOutcome, Record, TaskSpec

MINUTES = (5.0, 15.0)
CONSTANT = {"RTN W8": ("rtn", ("W8A16", "W8A8", "Q8_0E8")), "GPTQ W4A16g64": ("gptq", ("W4A16g64",))}
"""Name of a constant rule → its method and schemes, the first that was measured."""
HEADS = ("model", "cells", "at most", "fit", "best", *(f"{m:g} min" for m in MINUTES), "measured", *CONSTANT)
Items = Mapping[str, Sequence[ItemOutcome]]


@dataclass
class Replay:
    """Measures candidates by revealing their cells, and lets their recorded time pass."""

    sweep: Evidence
    records: Mapping[str, Record]
    now: float = 0.0
    captured: set[float] = field(default_factory=set)
    shown: set[str] = field(default_factory=set)
    calibration: CalibrationSpec = field(default_factory=CalibrationSpec)
    dtype: str = "bfloat16"
    data_dir: Path | None = None

    def candidate(self, proposal: Proposal, left_s: float) -> Candidate | Failure:
        """The candidate of the sweep."""
        del left_s
        one = proposal.observed(self.sweep)
        return Failure("failed", "not in the sweep") if one is None else one.candidate

    def measure(
        self, candidates: Sequence[Candidate], asked: Sequence[TaskSpec], left_s: float, engine: str | None = None
    ) -> None:
        """Reveal cells."""
        del asked, left_s, engine
        for one in self.sweep.candidates:
            if one.candidate in candidates and one.cells[0] not in self.shown:
                self.shown.update(one.cells)
                self.now += self.spent_s(self.records[one.cells[0]])

    def spent_s(self, record: Record) -> float:
        """Processor seconds that a cell took, on one core; statistics that several share are captured once."""
        seconds = sum(phase.cpu_s or 0.0 for phase in record.phases if phase.name != "capture")
        for phase in record.phases:
            if phase.name == "capture" and phase.seconds not in self.captured:
                self.captured.add(phase.seconds)
                seconds += phase.cpu_s or 0.0
        return seconds

    def known(self) -> Evidence:
        """What was revealed."""
        shown = tuple(one for one in self.sweep.candidates if set(one.cells) <= self.shown)
        return Evidence(self.sweep.sha256, self.sweep.reference, shown, self.sweep.dtype)


def main() -> None:
    """Print the table of regrets and the gains of methods."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("results/published"))
    parser.add_argument("--output", type=Path, help="also write the table here as JSON, for the documents' tables")
    given = parser.parse_args()
    records, items = read(sorted(given.folder.glob("*.jsonl")))
    rows = [row for model in dict.fromkeys(r.spec.model for r in records) for row in rows_of(model, records, items)]
    table = Table(*HEADS, box=None)
    for row in rows:
        table.add_row(*row)
    gains = ", ".join(f"{name} {gain:+.2f}" for name, gain in sorted(gains_of(records).items(), key=lambda g: g[1]))
    line = f"gains of methods against plain rounding, in the logarithm of the divergence: {gains}"
    Console(highlight=False, width=200).print(table, line, sep="\n")
    if given.output is not None:
        conditions = f"{len(records)} published cells; regret of the first choice, 0 % is the best cell that fits."
        write_printed(given.output, HEADS, rows, conditions, [line])


def read(paths: Sequence[Path]) -> tuple[list[Record], dict[str, list[ItemOutcome]]]:
    """The cells of all files, each once."""
    records: dict[str, Record] = {}
    items: dict[str, list[ItemOutcome]] = {}
    for path in paths:
        found, answers = read_cells(path)
        records |= {record.cell_id: record for record in found}
        items |= answers
    return sorted(records.values(), key=lambda record: record.finished_at), items


def rows_of(model: str, records: Sequence[Record], items: Items) -> list[list[str]]:
    """A row for each of up to three sizes of a model: those that let in one more scheme each."""
    sweep = field_of(gather(records, items, model, None))
    sizes = sorted({one.stored_bytes for one in sweep.candidates if one.stored_bytes is not None})
    limits = dict.fromkeys(sizes[round(place * (len(sizes) - 1))] for place in (0.0, 0.5, 1.0)) if sizes else {}
    return [row_of(model, sweep, limit, records) for limit in limits]


def field_of(sweep: Evidence) -> Evidence:
    """The candidates that were measured on the same windows."""
    ranking = rank(sweep.candidates)
    members = ranking.stages[0].members if ranking.stages else ()
    return Evidence(sweep.sha256, sweep.reference, tuple(members), sweep.dtype)


def row_of(model: str, sweep: Evidence, limit: int, records: Sequence[Record]) -> list[str]:
    """The regrets at one size."""
    fitting = [one for one in sweep.candidates if (one.stored_bytes or limit + 1) <= limit]
    best = min(fitting, key=lambda one: one.mean or 0.0)
    regrets, measured = [], []
    for minutes in MINUTES:
        first, count = found(model, sweep, limit, minutes, records)
        regrets.append("nothing" if first is None else f"{regret(first, best):.1%}")
        measured.append(str(count))
    constants = []
    for method, schemes in CONSTANT.values():
        one = next(
            (o for s in schemes for o in fitting if (o.candidate.method, o.candidate.scheme) == (method, s)), None
        )
        constants.append("does not fit" if one is None else f"{regret(one, best):.0%}")
    label, size = best.candidate.label, f"{limit / 1e6:.1f} MB"
    return [
        model,
        str(len(sweep.candidates)),
        size,
        str(len(fitting)),
        label,
        *regrets,
        " / ".join(measured),
        *constants,
    ]


def texts_of(sweep: Evidence) -> list[TaskSpec]:
    """The texts of the sweep, with their windows."""
    shared = rank(sweep.candidates).stages[0].shared
    return [TaskSpec(name=text.name, limit=len(positions)) for text, positions in shared.items()]


def regret(one: Observed, best: Observed) -> float:
    """Divergence relative to the best, minus one."""
    return (one.mean or 0.0) / (best.mean or 1.0) - 1


def found(
    model: str, sweep: Evidence, limit: int, minutes: float, records: Sequence[Record]
) -> tuple[Observed | None, int]:
    """The first choice after a search of so many minutes, and the number of cells measured."""
    others = [record for record in records if record.spec.model != model]
    question = ask(model, max_bytes=str(limit), minutes=minutes)
    sizes = {one.candidate.scheme: one.stored_bytes or 0 for one in sweep.candidates}
    card = next(r.model for r in records if r.spec.model == model and r.model is not None)
    schedule = Schedule(question, Sizing(sizes, {}, card.parameters), Prior(gains_of(others)))
    replay = Replay(sweep, {record.cell_id: record for record in records})
    search = Search(
        question, schedule, replay, texts_of(sweep), replay.known, Costs(others), print,
        60 * minutes, lambda: replay.now,
    )  # fmt: skip
    evidence = search.run([Proposal(one.candidate.method, one.candidate.scheme) for one in sweep.candidates])
    answer = advise(question, evidence)
    chosen = answer.options[0].candidate if answer.options else None
    return next((one for one in sweep.candidates if one.candidate == chosen), None), len(evidence.candidates)


if __name__ == "__main__":
    main()
