"""Answers of `slmquant recommend`: from the store, kept there, and printed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from slmquant.cli._output import print_json, print_table, say, tell

if TYPE_CHECKING:
    from slmquant.recommendation.answer import Answer, Figure, Option
    from slmquant.recommendation.evidence import Evidence
    from slmquant.recommendation.question import Question
    from slmquant.runs.rows import Event
    from slmquant.store.combine import Cell
    from slmquant.store.recommendations import KeptAnswer

_HEADS = (
    "", "method", "scheme", "MB", "KL", "of the first", "P(best)", "keeps", "tokens/s", "memory MB", "min to make",
)  # fmt: skip
_LISTED = 4
"""Labels that are printed of candidates with one thing in common."""


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
    earlier = (_read(one, path) for one in reversed(answers))
    same = (one for one in earlier if one.question == question and one.evidence == evidence.cells)
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
    from slmquant.measuring.making import make, missed, proof

    with progress_bar(quiet) as progress:
        made = make(answer, output, overwrite, data, progress)
    if not quiet:
        for note in made.notes:
            tell(note)
    tell(f"wrote {output}: {proof(made)}")
    missed(made, answer.question)


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


def print_answer(answer: Answer, json: bool) -> None:
    """Print an answer."""
    if json:
        print_json({"id": answer.id, **answer.model_dump(mode="json")})
        return
    question = answer.question
    rows = [_row(place, one) for place, one in enumerate(answer.options, start=1)]
    used = [place for place in range(len(_HEADS)) if place == 0 or any(row[place] for row in rows)]
    say(_title(answer))
    if rows:
        print_table("", [_HEADS[p] for p in used], [[row[p] for p in used] for row in rows])
    if answer.further:
        say(f"and {answer.further} more that fit")
    if answer.nearest is not None:
        _print_nearest(answer)
    if answer.options:
        say(f"\n1: {answer.options[0].why}")
    for line in answer.advice:
        say(line)
    _print_out(answer)
    if any(ruled.by == "--minutes" for ruled in answer.ruled_out):
        say("more --minutes would go on from here: what was measured is in the store")
    for remark in answer.remarks:
        say(remark)
    first = answer.options[0] if answer.options else None if answer.nearest is None else answer.nearest.option
    if first is not None:
        say(f"\nto make it: {first.command}")
    again = f"slmquant recommend {answer.id[:8]} --show"
    say(f"answer {answer.id[:8]} of {question.model}; again: {again}")


def _title(answer: Answer) -> str:
    from slmquant.recommendation.question import option, written

    question = answer.question
    asked = ", ".join(f"{option(name)} {written(name, value)}" for name, value in question.constraints.asked.items())
    on = "" if question.engine is None else f" on {question.engine}"
    compared = f"; compared on {answer.compared_on}" if answer.compared_on else ""
    return f"{question.model}{on}: {asked}{compared}"


def _row(place: int, one: Option) -> tuple[str, ...]:
    return (
        f"{place}{'' if one.may_be_best else ' worse'}",
        one.candidate.method,
        one.candidate.scheme,
        "" if one.size_bytes is None else f"{one.size_bytes / 1e6:.1f}",
        _figure(one.divergence, ".3g"),
        _figure(one.against_first, ".2f"),
        "" if one.probability_best is None else f"{one.probability_best:.0%}",
        _figure(one.kept, ".1%"),
        "" if one.tokens_per_second is None else f"{one.tokens_per_second:.1f}",
        "" if one.memory_bytes is None else f"{one.memory_bytes / 1e6:.0f}",
        "" if one.make_minutes is None else f"{one.make_minutes:.1f}",
    )


def _figure(figure: Figure | None, form: str) -> str:
    if figure is None:
        return ""
    if figure.low is None or figure.high is None:
        return format(figure.value, form)
    return f"{figure.value:{form}} [{figure.low:{form}}, {figure.high:{form}}]"


def _print_nearest(answer: Answer) -> None:
    from slmquant.recommendation.question import option, written

    nearest = answer.nearest
    if nearest is None:
        return
    label = f"{nearest.option.candidate.method} {nearest.option.candidate.scheme}"
    say(f"\nnothing fits; {label} comes closest:")
    for miss in nearest.misses:
        has, asked = written(miss.constraint, miss.has), written(miss.constraint, miss.asked)
        say(f"  {option(miss.constraint)}: it has {has}, and {asked} is asked")
    if answer.binding:
        say(f"without {' or without '.join(map(option, answer.binding))} something would fit")
    else:
        say("no constraint alone is in the way: several are missed by every candidate")


def _print_out(answer: Answer) -> None:
    """Print what was ruled out and what could not be judged, a line for each reason."""
    if answer.ruled_out:
        say("\nruled out:")
    for by, several in groupby(answer.ruled_out, key=lambda ruled: ruled.by):
        ruled = list(several)
        reasons: dict[str, list[str]] = {}
        for one in ruled:
            reasons.setdefault(one.reason, []).append(one.label)
        shown = [f"{_few(labels)} ({reason})" for reason, labels in reasons.items()]
        say(f"  {len(ruled)} by {by}: {_few(shown)}")
    for lacks, unjudged in groupby(sorted(answer.lacking, key=lambda one: one.lacks), key=lambda one: one.lacks):
        say(f"not judged, as {lacks} is not known: {_few([one.label for one in unjudged])}")


def _few(texts: Sequence[str]) -> str:
    """The first texts, and how many more there are."""
    more = len(texts) - _LISTED
    return ", ".join(texts[:_LISTED]) + (f" and {more} more" if more > 0 else "")
