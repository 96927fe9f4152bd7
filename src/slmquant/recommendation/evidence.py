"""What records say of the candidates of one model: divergence window by window, accuracy, size, speed, memory, cost.

Cells are compared only if they were computed in the same dtype, on the same device, from the same weights,
configuration and tokenizer. Divergences are compared on windows of text that both candidates were measured on, whatever
the number of windows of their cells.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from slmquant.analysis.cells import accuracy
from slmquant.analysis.score_table import context_of
from slmquant.recommendation.candidate import Candidate
from slmquant.store.outdated import apart
from slmquant.store.record import ComputeDtype, ItemOutcome, Record, TaskSpec, task_name

Answers = Mapping[str, Sequence[ItemOutcome]]
"""Cell id → its per-item answers."""

CHOSEN_FOR = "chosen_for_bytes"
"""Metric of a cell whose types were chosen for a file of so many bytes."""
CONTEXT = 512
"""Context at which decoding speed is taken, in tokens, or the longest one below that the model supports."""
_DIVERGENCE = "kl_mean"


class Text(NamedTuple):
    """A text as divergences are measured on it.

    Attributes:
        name: The task.
        protocol: How it is cut into windows.
        sha256: Hash of its data.
    """

    name: str
    protocol: str
    sha256: str | None


@dataclass(frozen=True)
class Observed:
    """What is known of a candidate.

    Attributes:
        candidate: The candidate.
        windows: Text → position of a window → divergence on it, in nats per token.
        texts: The texts that each of its cells was measured on.
        answers: Task → item → whether it was answered correctly, 0 to 1.
        stored_bytes: Bytes of its stored weights, by slmquant's definition.
        file_bytes: Bytes of the file that the engine opens.
        tokens_per_second: Decoding speed on the engine.
        memory_bytes: Resident memory of the engine's process.
        make_s: Seconds to make it: to load the model, capture statistics and quantize.
        cells: The cells that say so.
        problem: Why it could not be measured; None if it was.
        again: Whether another try may succeed, as time or memory ran out.
    """

    candidate: Candidate
    windows: Mapping[Text, Mapping[int, float]] = field(default_factory=dict)
    texts: tuple[tuple[TaskSpec, ...], ...] = ()
    answers: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    stored_bytes: int | None = None
    file_bytes: int | None = None
    tokens_per_second: float | None = None
    memory_bytes: int | None = None
    make_s: float | None = None
    cells: tuple[str, ...] = ()
    problem: str | None = None
    again: bool = False

    @property
    def mean(self) -> float | None:
        """Its mean divergence over the texts that it was measured on; None if it was not."""
        means = [sum(windows.values()) / len(windows) for windows in self.windows.values() if windows]
        return sum(means) / len(means) if means else None


@dataclass(frozen=True)
class Evidence:
    """What records say of one model.

    Attributes:
        sha256: Fingerprint of its weights.
        reference: Full precision; None if no record has it.
        candidates: The others, in the order of their labels.
        dtype: What their products were computed in; None if there is no record.
        remarks: What was left out, and why.
    """

    sha256: str
    reference: Observed | None
    candidates: tuple[Observed, ...]
    dtype: ComputeDtype | None = None
    remarks: tuple[str, ...] = ()

    @property
    def cells(self) -> tuple[str, ...]:
        """Ids of all cells, sorted."""
        everyone = [*self.candidates, *([self.reference] if self.reference is not None else [])]
        return tuple(sorted(cell for one in everyone for cell in one.cells))

    def sized(self, file_bytes: Mapping[str, int]) -> Evidence:
        """The same with sizes of files that were not made; scheme → bytes."""

        def add(one: Observed) -> Observed:
            known = one.file_bytes or one.candidate.chosen_for or file_bytes.get(one.candidate.scheme)
            return replace(one, file_bytes=known)

        reference = None if self.reference is None else add(self.reference)
        return replace(self, reference=reference, candidates=tuple(map(add, self.candidates)))


def gather(records: Sequence[Record], answers: Answers, model: str, engine: str | None) -> Evidence:
    """What records say of a model and its candidates.

    Args:
        records: Records of any models, in the order in which they finished.
        answers: Their per-item answers; a cell without any is compared on nothing.
        model: The model, as its cells name it.
        engine: The engine to take file size, speed and memory from; None takes none.
    """
    of_model = [record for record in records if record.spec.model == model]
    outdated = apart(of_model)
    current = [record for record in of_model if record.cell_id not in outdated]
    remarks = [f"not used, as they are of older code or changed inputs: {len(outdated)} cells"] if outdated else []
    if not current:
        return Evidence("", None, (), remarks=tuple(remarks))
    sha256 = max(current, key=lambda record: record.finished_at).spec.model_sha256
    same = [record for record in current if record.spec.model_sha256 == sha256]
    in_torch = [record for record in same if record.spec.engine is None]
    conditions = _most_common(in_torch)
    chosen = [record for record in in_torch if _conditions(record) == conditions]
    if len(chosen) < len(in_torch):
        how = chosen[0].spec.compute_dtype
        remarks.append(f"not used, as they were not computed in {how}: {len(in_torch) - len(chosen)} cells")
    observed: dict[Candidate, Observed] = {}
    for record in chosen:
        _add_cell_(observed, record, answers.get(record.cell_id, ()))
    for record in same if engine is not None else ():
        if record.spec.engine == engine:
            _add_engine_cell_(observed, record)
    if engine is not None:
        remarks += _share_figures_(observed)
    reference = next((one for one in observed.values() if one.candidate.is_reference), None)
    candidates = _one_draw_each(one for one in observed.values() if not one.candidate.is_reference)
    return Evidence(sha256, reference, candidates, chosen[0].spec.compute_dtype if chosen else None, tuple(remarks))


def _most_common(records: Sequence[Record]) -> Hashable:
    """The conditions of most measured candidates; of several, those of the record that finished last."""
    counts = Counter(_conditions(record) for record in records if record.status == "ok")
    latest = {_conditions(record): record.finished_at for record in records}
    return max(counts, key=lambda key: (counts[key], latest[key]), default=None)


def _conditions(record: Record) -> Hashable:
    spec = record.spec
    files = None if spec.inputs is None else (spec.inputs.config_sha256, spec.inputs.tokenizer_sha256)
    return spec.compute_dtype, spec.device, files


def _add_cell_(observed: dict[Candidate, Observed], record: Record, items: Sequence[ItemOutcome]) -> None:
    """Add what a cell measured in torch says."""
    chosen_for = record.metric(CHOSEN_FOR)
    candidate = Candidate.of(record.spec, None if chosen_for is None else int(chosen_for.value))
    before = observed.get(candidate, Observed(candidate))
    if record.status != "ok":
        if not before.windows:
            observed[candidate] = replace(before, problem=_problem(record), again=not record.is_finished)
        return
    size = record.metric("stored_bytes")
    spent = [record.metric(name) for name in ("load_model_s", "quantize_s")]
    made = [metric.value for metric in spent if metric is not None]
    observed[candidate] = replace(
        before,
        windows=_with_windows(before.windows, record, items),
        texts=(*before.texts, tuple(t for t in record.spec.tasks if record.metric(_DIVERGENCE, str(t)) is not None)),
        answers={**before.answers, **_answers(record, items)},
        stored_bytes=before.stored_bytes if size is None else round(size.value),
        make_s=sum(made) if len(made) == len(spent) else before.make_s,
        cells=(*before.cells, record.cell_id),
        problem=None,
        again=False,
    )


def _add_engine_cell_(observed: dict[Candidate, Observed], record: Record) -> None:
    """Add what a cell measured on the engine says."""
    candidate = next((one for one in observed if _is_of(record, one)), Candidate.of(record.spec))
    before = observed.get(candidate, Observed(candidate))
    if record.status != "ok":
        problem = f"on {record.spec.engine}: {_problem(record)}"
        observed[candidate] = replace(before, problem=problem, again=not record.is_finished)
        return
    named = {metric.name: metric.value for metric in record.metrics}
    context = context_of(record.metrics, "decode_tokens_per_s", CONTEXT)
    size, memory = named.get("artifact_bytes"), named.get("inference_peak_rss_bytes")
    observed[candidate] = replace(
        before,
        file_bytes=before.file_bytes if size is None else round(size),
        memory_bytes=before.memory_bytes if memory is None else round(memory),
        tokens_per_second=named.get(f"decode_tokens_per_s@{context}", before.tokens_per_second),
        cells=(*before.cells, record.cell_id),
    )


def _share_figures_(observed: dict[Candidate, Observed]) -> list[str]:
    """Give candidates the speed and memory of another method's file in the same scheme: its types are the same."""
    known = {one.candidate.scheme: one for one in observed.values() if one.tokens_per_second is not None}
    shared = 0
    for candidate, one in observed.items():
        like = known.get(candidate.scheme)
        if like is not None and one.tokens_per_second is None and one.problem is None:
            speed, memory = like.tokens_per_second, like.memory_bytes
            observed[candidate] = replace(one, tokens_per_second=speed, memory_bytes=memory)
            shared += 1
    return [f"speed and memory of {shared} are those of another method's file in the same scheme"] if shared else []


def _problem(record: Record) -> str:
    """Why a cell has no figures; the advice for `bench` that a reason ends with is left out."""
    return f"{record.status.replace('_', ' ')}: {(record.reason or '').partition('; ')[0]}"


def _is_of(record: Record, candidate: Candidate) -> bool:
    return candidate.model_copy(update={"chosen_for": None}) == Candidate.of(record.spec)


def _with_windows(
    before: Mapping[Text, Mapping[int, float]], record: Record, items: Sequence[ItemOutcome]
) -> dict[Text, Mapping[int, float]]:
    """The divergences of a cell's windows, added to those of other cells."""
    found = dict(before)
    data = dict(record.spec.inputs.data_sha256) if record.spec.inputs is not None else {}
    for metric in record.metrics:
        if metric.name != _DIVERGENCE or metric.task is None:
            continue
        name = task_name(metric.task)
        cut, _, _ = (metric.protocol or "").rpartition(" windows")
        text = Text(name, f"{cut.rpartition(', ')[0] or cut} v{metric.version}", data.get(name))
        windows = {
            int(item.item): item.values[_DIVERGENCE]
            for item in items
            if item.task == metric.task and _DIVERGENCE in item.values and item.item.isdecimal()
        }
        found[text] = {**found.get(text, {}), **windows}
    return found


def _answers(record: Record, items: Sequence[ItemOutcome]) -> dict[str, Mapping[str, float]]:
    """Whether each item of each task was answered correctly."""
    found: dict[str, Mapping[str, float]] = {}
    for task in dict.fromkeys(map(str, record.spec.tasks)):
        metric = accuracy(record, task)
        if metric is not None:
            of_task = {
                one.item: one.values[metric.name] for one in items if one.task == task and metric.name in one.values
            }
            if of_task:
                found[task] = of_task
    return found


def _one_draw_each(observed: Iterable[Observed]) -> tuple[Observed, ...]:
    """Of candidates that differ only in seeds or calibration set, the one measured most, then of the lowest seeds."""
    kept: dict[tuple[object, ...], Observed] = {}
    for one in sorted(observed, key=lambda each: (-_measured(each), each.candidate.draw, repr(each.candidate))):
        made = one.candidate
        kept.setdefault((made.method, made.scheme, made.budget), one)
    return tuple(sorted(kept.values(), key=lambda one: (one.candidate.label, one.candidate.budget or "")))


def _measured(one: Observed) -> int:
    return sum(len(windows) for windows in one.windows.values())
