"""The contract of principles: a rule that can be refuted, and that says what it lacks. Shipped for plug-ins, too.

In a test:

    from slmquant.testing.principle_contract import check_principle

    def test_my_principle():
        check_principle("my_principle", records, items)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from slmquant import principles
from slmquant.principles.common.cells import ModelCells, models_of
from slmquant.principles.common.contract import Found, Principle
from slmquant.principles.common.decisions import Candidates
from slmquant.store.record import ItemOutcome, Record
from slmquant.testing.contract import ContractError, Outcome, demand, demand_described


def check_principle(
    name: str, records: Sequence[Record] = (), items: Mapping[str, Sequence[ItemOutcome]] | None = None
) -> Outcome:
    """Check a principle's contract.

    It states a rule, its source and a margin. Of a model without cells it says what is missing. On records it gives
    the same evidence each time, from cells that are among them.

    Args:
        name: The principle.
        records: Records to test it on, in the order in which they finished.
        items: Their answers, by cell id.

    Raises:
        ContractError: The principle breaks a promise; the message says which.
    """
    principle = principles.load(name)
    try:
        _check_words(principle)
        without = ModelCells("some-model", "0" * 64, None, (), ())
        lacking = principle.evidence.of(without, [without])
        demand(lacking.estimate is None, "has no effect without cells")
        demand(len(lacking.needs) > 0, "says what is missing")
        _check_found(lacking)
        answers = items or {}
        models = models_of(records, lambda cell_id: answers.get(cell_id, ()))
        known = {record.cell_id for record in records}
        for model in models:
            found = principle.evidence.of(model, models)
            _check_found(found)
            demand(found == principle.evidence.of(model, models), "gives the same evidence again")
            demand(all(known.issuperset(one.cells) for one in found.findings), "names the cells that it compares")
    except ContractError as error:
        raise ContractError(f"{name}: {error}") from None
    return Outcome(None)


def _check_words(principle: Principle) -> None:
    demand_described(principle, "rule", "source")
    demand_described(principle.prediction, "effect")
    demand(principle.rule.endswith("."), f"its rule is a sentence; got {principle.rule!r}")
    demand(math.isfinite(principle.prediction.margin), "its margin is a number")
    for decision in (*principle.if_it_holds, *principle.if_it_fails):
        demand_described(decision, "why")
        about_all = decision.candidates == Candidates()
        demand(about_all == (decision.action == "note"), f"only a note is about all candidates; {decision.why!r}")


def _check_found(found: Found) -> None:
    demand((found.estimate is None) == (found.n == 0), "counts what its effect is the mean of")
    demand(found.estimate is not None or bool(found.needs or found.remarks), "says why it has no effect")
    for lack in found.needs:
        demand(bool(lack.cells), "says which cells are missing")
        demand(lack.command == "" or lack.command.startswith("slmquant "), f"gives a command, not {lack.command!r}")
