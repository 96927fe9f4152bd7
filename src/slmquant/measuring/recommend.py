"""Answers a question by measuring what records lack."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from slmquant import engines, principles
from slmquant.analysis.estimates import Costs
from slmquant.boundary import size_text
from slmquant.errors import ModelError, RefusedError, UnavailableError
from slmquant.machine.environment import environment
from slmquant.machine.memory import lacking_memory
from slmquant.measuring.search import Search, sizes_of
from slmquant.measuring.sizes import Sizes
from slmquant.measuring.trials import Trials, texts_here
from slmquant.model.sources.load import identify
from slmquant.progress import Progress
from slmquant.recommendation.advise import advise
from slmquant.recommendation.answer import Answer
from slmquant.recommendation.by_principles import refusing
from slmquant.recommendation.evidence import Evidence, gather
from slmquant.recommendation.judging import size_of
from slmquant.recommendation.prior import USUAL_GAINS, Prior, gains_of
from slmquant.recommendation.question import Question
from slmquant.recommendation.schedule import RUNGS, Schedule, Sizing
from slmquant.recommendation.space import proposals
from slmquant.runs.rows import Event
from slmquant.schemes import Scheme
from slmquant.store.combine import Cell, best_of
from slmquant.store.record import Record
from slmquant.store.sqlite import Store


@dataclass(frozen=True)
class Surroundings:
    """What a search may use.

    Attributes:
        store: The store, open for writing.
        further: Cells from elsewhere.
        data_dir: Local folder of data, tried first.
        progress: Receives progress updates.
        tell: Receives news of cells.
        say: Receives remarks.
    """

    store: Store
    further: Sequence[Cell]
    data_dir: Path | None
    progress: Progress
    tell: Callable[[Event], None]
    say: Callable[[str], None]


def check_possible(question: Question) -> None:
    """Check, before anything is loaded, that the model fits into memory and that the engine is here.

    Raises:
        UnknownNameError, SourceError, ModelError: The model is not known, not here, or too large for this machine.
        UnavailableError: The engine cannot be used here.
    """
    if question.engine is not None:
        status = engines.load(question.engine).status()
        if not status.usable:
            raise UnavailableError(f"{question.engine} cannot be used here: {status.reason}")
    if (reason := lacking_memory(identify(question.model).card.parameters)) is not None:
        raise ModelError(f"{question.model}: {reason}, or --minutes 0 to answer from records")


def recommend(question: Question, around: Surroundings) -> Answer:
    """Answer a question that `check_possible` accepts, measuring for at most its minutes.

    Raises:
        SlmquantError: The model cannot be used, or there is nothing to choose.
    """
    deadline = time.monotonic() + 60 * question.minutes
    format_name = "native" if question.engine is None else engines.load(question.engine).formats[0]
    tried = proposals(format_name, question.constraints.max_bytes)
    sizes = sizes_of(question, format_name, tried, around.progress)
    cells = best_of([*around.further, *((record, ()) for record in around.store.records())])
    everything = [record for record, _ in cells]
    further = {record.cell_id: items for record, items in around.further}
    judged = principles.judged(everything, lambda cell_id: further.get(cell_id) or around.store.items(cell_id))

    def read() -> Evidence:
        of_model = around.store.records(model=question.model)
        cells = [*around.further, *((record, around.store.items(record.cell_id)) for record in of_model)]
        chosen = best_of(cells)
        answers = {record.cell_id: items for record, items in chosen}
        found = gather([record for record, _ in chosen], answers, question.model, question.engine)
        return found.sized(sizes.counted) if question.engine is not None else found

    schedule = Schedule(
        question,
        Sizing(sizes.counted, sizes.refused, sizes.parameters),
        Prior({**USUAL_GAINS, **gains_of(everything, question.model)}),
        (refusing(judged, identify(question.model).card),),
    )
    known = read()
    _check_choice(question, sizes, known)
    trials = Trials.like(known, question.model, around.store, around.data_dir, around.progress, around.tell)
    texts = texts_here(known, around.data_dir, RUNGS[0])
    search = Search(question, schedule, trials, texts, read, _costs(everything), around.say, deadline)
    evidence = search.run(tried)
    return advise(question, evidence, tuple(schedule.left_out.values()), format_name)


def _check_choice(question: Question, sizes: Sizes, evidence: Evidence) -> None:
    """Refuse a question that full precision answers, or that no file can.

    Raises:
        RefusedError: It is such a question.
    """
    full, limit = sizes.counted.get(str(Scheme())), question.constraints.max_bytes
    if full is not None and limit is not None and full <= limit and not question.constraints.of_quality:
        raise RefusedError(
            f"{size_text(limit)} hold {question.model} in 16 bits ({size_text(full)}), so there is nothing to choose; "
            "use method none, or ask for less"
        )
    known = [size for one in evidence.candidates if (size := size_of(one, question.engine)) is not None]
    if limit is not None and sizes.least is not None and limit < min([sizes.least, *known]):
        raise RefusedError(
            f"--max-bytes {size_text(limit)} cannot be met: the smallest file of {question.model} that would be tried "
            f"takes {size_text(sizes.least)}"
        )


def _costs(records: Sequence[Record]) -> Costs:
    """Costs of cells, from this machine if it has any."""
    here = [record for record in records if record.environment.cpu == environment().cpu]
    return Costs(here or records)
