"""Answers a question from what records say."""

from __future__ import annotations

import math
from collections.abc import Sequence

from slmquant.recommendation.answer import Answer, Figure, Lacking, Miss, Nearest, Option, Ruled
from slmquant.recommendation.candidate import output_name
from slmquant.recommendation.evidence import Evidence, Observed
from slmquant.recommendation.judging import AT_LEAST, Judgement, judge, mean_divergence, size_of
from slmquant.recommendation.ordering import Ordered, drawn, figure, has_quality, labels, order, rounded
from slmquant.recommendation.question import Name, Question, option, written

SHORT = 5
"""Options of an answer."""
_DIFFERENCE = 0.05
"""The difference of divergences, as a share, that further windows should show."""
_LACKING = {
    "max_bytes": "the size of its file",
    "min_tokens_per_second": "its speed",
    "max_memory": "its memory",
    "keep": "its accuracy on tasks",
    "max_divergence": "its divergence",
}


def advise(
    question: Question,
    evidence: Evidence,
    left_out: Sequence[Ruled] = (),
    output_format: str = "native",
) -> Answer:
    """Answer a question.

    Args:
        question: The question.
        evidence: What is known of the model.
        left_out: Candidates that were not measured, and why.
        output_format: The format of the engine's files, for commands.
    """
    judgement = judge(question, evidence)
    ordered = order(question, judgement)
    writer = _Writer(question, judgement, ordered, output_format)
    fitting = ordered.fitting
    nearest = None if fitting else writer.nearest()
    measured = {one.observed.candidate.label for one in judgement.judged}
    out = [*writer.ruled_out(), *(ruled for ruled in left_out if ruled.label not in measured)]
    return Answer(
        question=question,
        model_sha256=evidence.sha256,
        compared_on=writer.compared_on(),
        options=tuple(writer.option(place) for place in range(min(SHORT, len(fitting)))),
        further=max(0, len(fitting) - SHORT),
        ruled_out=tuple(sorted(out, key=lambda ruled: (ruled.by, ruled.label))),
        lacking=writer.lacking(),
        nearest=nearest,
        binding=() if nearest is None else writer.binding(),
        advice=writer.advice(),
        remarks=evidence.remarks,
        evidence=evidence.cells,
    )


class _Writer:
    """Writes the parts of an answer."""

    def __init__(self, question: Question, judgement: Judgement, ordered: Ordered, output_format: str) -> None:
        self.question, self.judgement, self.ordered, self.format = question, judgement, ordered, output_format
        self.asked = question.constraints.asked
        self.out = output_name(question.model, output_format)

    def option(self, place: int) -> Option:
        """The option at a place of the order."""
        one = self.ordered.fitting[place].observed
        may_be_best = one in self.ordered.may_be_best
        written_option = self._option(one, self._why(place, may_be_best))
        return written_option.model_copy(
            update={
                "against_first": self._against_first(one) if place else None,
                "probability_best": self.ordered.probabilities[place],
                "may_be_best": may_be_best,
            }
        )

    def _option(self, one: Observed, why: str) -> Option:
        ranking = self.ordered.ranking if self.ordered.fitting else self.judgement.ranking
        divergence, field = mean_divergence(one, ranking), ranking.field_of(one)
        kept = self.judgement.kept.get(one.candidate)
        return Option(
            candidate=one.candidate,
            size_bytes=size_of(one, self.question.engine),
            divergence=None if divergence is None else figure(divergence, drawn(one, field)),
            kept=None if kept is None else figure(kept.share, kept.drawn),
            tokens_per_second=None if one.tokens_per_second is None else rounded(one.tokens_per_second),
            memory_bytes=one.memory_bytes,
            windows=0 if field is None else field.windows,
            make_minutes=None if one.make_s is None else rounded(one.make_s / 60),
            why=why,
            command=one.candidate.command(self.question.model, self.format, self.out),
            cells=one.cells,
        )

    def _why(self, place: int, may_be_best: bool) -> str:
        fitting, number = self.ordered.fitting, len(self.ordered.fitting)
        one = fitting[place].observed
        if self.question.constraints.of_quality:
            reached = has_quality(self.question, one, self.judgement)
            sure = "" if reached is None else f", with a probability of {reached.mean():.0%}"
            order_of = "the smallest of" if place == 0 else "one of"
            return f"{order_of} {number} that fit; has the quality asked for{sure}"
        if place == 0:
            return f"the least divergence of {number} that fit" if number > 1 else "the only one measured that fits"
        if self.ordered.ranking.field_of(one) is None:
            return "fits, but was measured on other windows than the rest"
        return "not told apart from the best" if may_be_best else "shown to be worse than the first"

    def _against_first(self, one: Observed) -> Figure | None:
        """Divergence over that of the first, on the windows of the last comparison of both."""
        first, ranking = self.ordered.fitting[0].observed, self.ordered.ranking
        field = ranking.field_of(one)
        if field is None or first not in field.members:
            return None
        a, b = field.members.index(first), field.members.index(one)
        if field.means[a] <= 0:
            return None
        draws = None
        if field.drawn is not None and (field.drawn[a] > 0).all():
            draws = field.drawn[b] / field.drawn[a]
        return figure(float(field.means[b] / field.means[a]), draws)

    def ruled_out(self) -> list[Ruled]:
        """Candidates that could not be measured, or that a constraint put out."""
        found = [
            Ruled(label=one.candidate.label, by="its record", reason=one.problem or "")
            for one in self.judgement.problems
        ]
        for one in self.judgement.judged:
            for name in one.misses:
                bound = "at least" if name in AT_LEAST else "at most"
                by = f"{option(name)} {bound} {written(name, self.asked[name])}"
                has = written(name, one.values[name])
                found.append(Ruled(label=one.observed.candidate.label, by=by, reason=has))
        return found

    def lacking(self) -> tuple[Lacking, ...]:
        """Candidates that may fit, as far as is known."""
        found = []
        for one in self.judgement.judged:
            lacks = [_LACKING[name] for name in one.lacks]
            if not lacks and mean_divergence(one.observed, self.judgement.ranking) is None:
                lacks = [_LACKING["max_divergence"]]
            if lacks and not one.misses:
                found.append(Lacking(label=one.observed.candidate.label, lacks=" and ".join(lacks)))
        return tuple(found)

    def nearest(self) -> Nearest | None:
        """The candidate whose worst miss is least."""
        judged = [one for one in self.judgement.judged if one.misses and not one.lacks]
        if not judged:
            return None
        closest = min(judged, key=lambda one: (one.furthest, one.observed.candidate.label))
        misses = tuple(
            Miss(constraint=name, asked=self.asked[name], has=rounded(closest.values[name])) for name in closest.misses
        )
        return Nearest(option=self._option(closest.observed, "comes closest"), misses=misses)

    def binding(self) -> tuple[Name, ...]:
        """The constraints without any one of which something would fit."""
        known = [one for one in self.judgement.judged if not one.lacks]
        return tuple(name for name in self.asked if any(set(one.misses) == {name} for one in known))

    def compared_on(self) -> str:
        """The windows in words."""
        stages = self.ordered.ranking.stages
        shared = stages[0].shared if stages else {}
        return ", ".join(f"{len(positions)} windows of {text.name}" for text, positions in shared.items())

    def advice(self) -> tuple[str, ...]:
        """What would make the answer surer."""
        ordered = self.ordered
        if not ordered.fitting or self.question.constraints.of_quality or not ordered.ranking.stages:
            return ()
        said = []
        last, first = ordered.ranking.stages[-1], ordered.fitting[0].observed
        rivals = [one for one in ordered.may_be_best if one != first]
        if rivals and first in last.members:
            if ordered.regret is not None:
                said.append(f"should the first not be the best, that costs {ordered.regret:.2g} nats on average")
            place = last.members.index(first)
            needed = [
                last.more_windows(place, last.members.index(one), _DIFFERENCE * float(last.means[place]))
                for one in rivals
            ]
            known = [count for count in needed if count is not None]
            if known and max(known) > 0:
                said.append(
                    f"to tell {first.candidate.label} from {labels(rivals)} where they differ by {_DIFFERENCE:.0%}, "
                    f"measure them on about {math.ceil(max(known))} more windows"
                )
        return tuple(said)
