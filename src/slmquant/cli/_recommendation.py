"""Answers of `slmquant recommend`: from the store, kept there, and printed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from slmquant.boundary import or_none
from slmquant.cli._output import tell

if TYPE_CHECKING:
    from slmquant.recommendation.answer import Answer
    from slmquant.recommendation.evidence import Evidence
    from slmquant.recommendation.question import Question
    from slmquant.runs.rows import Event
    from slmquant.store.combine import Cell
    from slmquant.store.recommendations import KeptAnswer


def answered(question: Question, store: Path | None, records: Sequence[Path], data: Path | None, quiet: bool) -> Answer:
    """The answer from records, and from measurements if they lack something; kept in the store.

    An earlier answer to the same question is given again while there are no other records.

    Raises:
        SlmquantError: There is no record and no time to measure, a store or file cannot be read, or the model or the
            engine cannot be used.
    """
    from slmquant.errors import StoreError
    from slmquant.recommendation.advise import advise
    from slmquant.recommendation.space import proposals
    from slmquant.store import default_store_path
    from slmquant.store.combine import cells

    path, further = store or default_store_path(), list(cells(records))
    evidence, before = _known(question, path, further)
    if before is not None:
        keep(before, path)
        return before
    format_name = format_of(question)
    answer = advise(question, evidence, output_format=format_name)
    tried = proposals(format_name, question.constraints.max_bytes)
    complete = not answer.lacking and all(one.is_measured(evidence) for one in tried)
    if question.minutes > 0 and not complete:
        answer = _measured(question, path, further, data, quiet)
    elif evidence.reference is None and not evidence.candidates:
        places = ", ".join(map(str, (path, *records)))
        raise StoreError(f"no record of {question.model} in {places}; give --minutes to measure, or --records")
    keep(answer, path)
    return answer


def format_of(question: Question) -> str:
    """The format of the file that is asked for.

    Raises:
        UnknownNameError: The engine is not known.
    """
    from slmquant import engines

    return "native" if question.engine is None else engines.load(question.engine).formats[0]


def _known(question: Question, path: Path, further: Sequence[Cell]) -> tuple[Evidence, Answer | None]:
    """What the store and further cells say of the model, and the answer to this question from the same cells."""
    from slmquant.recommendation.evidence import gather
    from slmquant.store import Store
    from slmquant.store.combine import best_of
    from slmquant.store.sqlite import begun

    read, answers = list(further), []
    if begun(path):
        with Store(path, read_only=True) as store:
            read += [(record, store.items(record.cell_id)) for record in store.records(model=question.model)]
            answers = [one for one in store.answers() if one.model == question.model]
    chosen = best_of(read)
    items_of = {record.cell_id: items for record, items in chosen}
    evidence = gather([record for record, _ in chosen], items_of, question.model, question.engine)
    readable = (or_none(partial(_read, one, path)) for one in reversed(answers))
    same = (one for one in readable if one and one.question == question and one.evidence == evidence.cells)
    return evidence, next(same, None)


def _measured(question: Question, path: Path, further: Sequence[Cell], data: Path | None, quiet: bool) -> Answer:
    """The answer after measuring for the question's minutes."""
    from slmquant.cli._output import progress_bar
    from slmquant.measuring.recommend import Surroundings, check_possible, recommend
    from slmquant.store import Store

    check_possible(question)
    told: set[str] = set()

    def news(event: Event) -> None:
        if event.text and not quiet and not event.skipped and event.text not in told:
            told.add(event.text)
            tell(event.text)

    with progress_bar(quiet) as progress, Store(path) as store:
        say = (lambda _: None) if quiet else tell
        return recommend(question, Surroundings(store, further, data, progress, news, say))


def check_target(question: Question, output: Path, overwrite: bool) -> None:
    """Check, before anything is measured, that the file can be written.

    Raises:
        OutputError: It cannot, or holds something else.
        UnavailableError: The format needs a package that is not installed.
    """
    from slmquant import formats
    from slmquant.files import check_output
    from slmquant.formats.common.contract import check_installed
    from slmquant.formats.native.folder import is_native
    from slmquant.model.sources.resolve import place_of

    name = format_of(question)
    fmt = formats.load(name)
    check_installed(name, fmt.extra)
    ours = is_native if name == "native" else None
    check_output(output, not fmt.suffix, ours, overwrite, place_of(question.model))


def applied(answer: Answer, output: Path, overwrite: bool, data: Path | None, quiet: bool) -> None:
    """Make what an answer recommends, measure it, and say whether it holds what was asked.

    Raises:
        RefusedError: The file that was made misses a constraint; it is left for inspection.
    """
    from slmquant.cli._output import progress_bar
    from slmquant.measuring.making import check_made, make, proof

    with progress_bar(quiet) as progress:
        made = make(answer, output, overwrite, data, progress)
    if not quiet:
        for note in made.notes:
            tell(note)
    tell(f"wrote {output}: {proof(made)}")
    check_made(made, answer.question)


def keep(answer: Answer, path: Path) -> None:
    """Keep an answer in the store; one that another process writes to gets none, which is told."""
    from slmquant.errors import StoreError
    from slmquant.store import Store
    from slmquant.store.recommendations import KeptAnswer

    try:
        with Store(path) as store:
            store.keep_answer(KeptAnswer(answer.id, answer.question.model, answer.text))
    except StoreError as error:
        tell(f"the answer is not kept: {error}")


def latest(name: str | None, store: Path | None) -> Answer:
    """The latest answer; with a name, the one of this id, or the latest about this model.

    Raises:
        UnknownNameError: There is none.
        StoreError: There is no store, or the answer was damaged.
    """
    from slmquant.cli._results import open_store
    from slmquant.errors import StoreError, UnknownNameError

    with open_store(store) as opened:
        answers, path = opened.answers(), opened.path
    matching = [one for one in answers if name is None or one.model == name or one.id.startswith(name.lower())]
    if not answers:
        raise StoreError(f"{path} has no recommendation yet; ask for one: slmquant recommend MODEL --max-bytes 95MB")
    if not matching:
        raise UnknownNameError("recommendation", str(name), {x for one in answers for x in (one.id, one.model)})
    return _read(matching[-1], path)


def _read(kept: KeptAnswer, path: Path) -> Answer:
    """A stored answer.

    Raises:
        StoreError: It was damaged, or another version of slmquant gave it.
    """
    from pydantic import ValidationError

    from slmquant.errors import StoreError
    from slmquant.recommendation.answer import Answer

    try:
        answer = Answer.model_validate_json(kept.content)
    except ValidationError as error:
        what = f"{path}: recommendation {kept.id} is damaged, or of another version of slmquant"
        raise StoreError(f"{what}; ask again in another store") from error
    if answer.id != kept.id:
        raise StoreError(f"{path}: recommendation {kept.id} differs from its id; ask again in another store")
    return answer
