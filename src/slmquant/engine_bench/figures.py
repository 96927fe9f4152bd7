"""Metrics of track 2, inference: parity, speed, memory and energy of an artifact on a real engine.

Every figure is measured from outside the engine, through `Session.reset` and `Session.feed`, by one clock. A
fake-quantized model has no speed, so no speed is estimated from it.

A metric's name carries its conditions: `@512` means a context of 512 tokens, `/1t` one thread; without `/1t`, all
cores are used. `docs/metrics.md` lists the metrics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slmquant.engine_bench.agreement import Parity
from slmquant.engine_bench.requests import Memory, Opened, Pass, Point
from slmquant.machine.energy import PackageEnergy
from slmquant.machine.limits import MachineLimits
from slmquant.machine.meters import bytes_on_disk
from slmquant.store.record import Metric
from slmquant.versions import METRICS

VERSION = METRICS["engine"]
"""1: sizes as in `model.size`; speeds as in `docs/metrics.md`. 2: `prefill_flop_share` counts the head once a prompt,
and the bytes that decoding reads count weights and graph, without tokenizer and configuration. 3: speeds over ten
rounds of 64 tokens in balanced orders, quantiles only where enough steps were timed, `inference_added_rss_bytes`;
bandwidth is measured by reading four times the size of the last-level caches, no longer 256 MiB."""

_SURE = 0.95
"""A quantile is reported if the largest timed step lies above it with at least this probability."""
_QUANTILES = (50, 90, 99)
_RESAMPLES = 2000


@dataclass(frozen=True)
class Conditions:
    """The conditions of a run, for metric names and protocols.

    Attributes:
        engine: The engine's name and version.
        threads: Number of threads.
        all_threads: Whether `threads` are all cores; metric names then omit the number.
        energy_of: The device whose energy is measured.
    """

    engine: str
    threads: int
    all_threads: bool
    energy_of: str = PackageEnergy.source

    @property
    def protocol(self) -> str:
        """Engine, version and threads."""
        return f"{self.engine}, {self.threads} thread{'s' if self.threads != 1 else ''}"

    def name(self, figure: str, context: int | None = None) -> str:
        """`figure@context/threads`."""
        at = "" if context is None else f"@{context}"
        return f"{figure}{at}{'' if self.all_threads else f'/{self.threads}t'}"


@dataclass(frozen=True)
class TokenCost:
    """The work per token that an artifact requires of an engine.

    Attributes:
        read_bytes: Bytes of weights that decoding reads per token; None if unknown.
        multiplied: Number of weights that every token is multiplied with; None if unknown.
        head: Number of weights in the head. Only tokens whose next token is predicted are multiplied with them: in a
            prompt, the last token.
    """

    read_bytes: int | None = None
    multiplied: int | None = None
    head: int = 0


def parity_metrics(parity: Parity, engine: str, text: str) -> list[Metric]:
    """Agreement with the torch reference of the same artifact."""
    common = {"version": VERSION, "n": parity.predictions, "protocol": f"{engine} against torch float32; {text}"}
    return [
        Metric(
            name="engine_perplexity", value=parity.perplexity, unit="1", higher_is_better=False,
            version=VERSION, n=parity.predictions, protocol=f"{engine}; {text}",
        ),
        _metric(
            "parity_perplexity_change", parity.perplexity_change, "ratio", None,
            {**common, "stderr": parity.log_change_stderr},
        ),
        _metric(
            "parity_kl_mean", parity.kl_mean, "nats", False,
            {**common, "stderr": parity.kl_stderr, "protocol": f"{common['protocol']}; allowed {parity.kl_bound:.2g}"},
        ),
        *([] if parity.own_kl is None else [_metric("parity_own_kl_mean", parity.own_kl, "nats", False,
            {**common, "protocol": f"torch float32 against full precision; {text}"})]),
        *([] if parity.own_noise is None else [_metric("parity_own_noise_kl_mean", parity.own_noise, "nats", False,
            {**common, "protocol": f"torch float32 against itself with nudged embeddings; {text}"})]),
        *([] if parity.cost_change is None else [_metric("parity_cost_change", parity.cost_change, "nats", None,
            {**common, "stderr": parity.cost_change_stderr, "protocol": f"{engine} less torch; {text}"})]),
        _metric("parity_kl_max", parity.kl_max, "nats", False, common),
        _metric("parity_top1_agreement", parity.top1_agreement, "ratio", True, common),
    ]  # fmt: skip


def artifact_metrics(artifact: Path) -> list[Metric]:
    """Size of the artifact on disk; no metric if it is neither a file nor a folder."""
    size = bytes_on_disk(artifact)
    if size is None:
        return []
    common: dict[str, object] = {"version": VERSION, "protocol": "all files of the artifact, tokenizer included"}
    return [_metric("artifact_bytes", size, "bytes", False, common)]


def loading_metrics(opened: Sequence[Opened], last: Memory, conditions: Conditions) -> list[Metric]:
    """Load time and resident memory; `last` is measured after the last pass."""
    first = opened[0]
    cold = "opening in a fresh process, libraries that are imported on the way included, the file cached or not"
    peak = "while tokens were fed and decoded" if first.peak_of_its_own else "loading included"
    plain = {"version": VERSION, "protocol": conditions.protocol}
    metrics = [
        *_spread(conditions.name("load_s"), [each.load_s for each in opened], "s", False,
                 f"{conditions.protocol}; {cold}"),
        _metric(conditions.name("load_peak_rss_bytes"), first.memory.peak_bytes, "bytes", False, plain),
        _metric(conditions.name("inference_peak_rss_bytes"), last.peak_bytes, "bytes", False,
                {**plain, "protocol": f"{conditions.protocol}; resident memory of the process {peak}, mapped pages "
                                      "of the artifact and the interpreter included"}),
        _metric(conditions.name("inference_added_rss_bytes"), max(0, last.peak_bytes - first.empty_rss_bytes), "bytes",
                False, {**plain, "protocol": f"{conditions.protocol}; resident memory of the process {peak}, less what "
                        "it held before the artifact was opened: interpreter and binding"}),
        _metric(conditions.name("steady_rss_bytes"), last.rss_bytes, "bytes", False, plain),
        _metric(conditions.name("empty_rss_bytes"), first.empty_rss_bytes, "bytes", None,
                {**plain, "protocol": f"{conditions.protocol}; before the artifact was opened"}),
    ]  # fmt: skip
    if last.mapped_bytes is not None:
        metrics.append(_metric(conditions.name("mapped_rss_bytes"), last.mapped_bytes, "bytes", None, plain))
    return metrics


def speed_metrics(
    point: Point, passes: Sequence[Pass], conditions: Conditions, cost: TokenCost, limits: MachineLimits | None
) -> list[Metric]:
    """Medians and interquartile ranges over the passes of one point, and their share of the machine's limits."""
    context = point.context
    metrics: list[Metric] = []
    prefills = [each.prefill_s for each in passes if each.prefill_s is not None]
    if prefills:
        protocol = f"{conditions.protocol}; {context} tokens fed at once to an empty sequence"
        rate = [context / seconds for seconds in prefills]
        name = conditions.name("prefill_tokens_per_s", context)
        metrics += _spread(name, rate, "tokens/s", True, protocol)
        metrics += _spread(conditions.name("ttft_s", context), prefills, "s", False, f"{protocol}, first token chosen")
        if limits is not None and cost.multiplied is not None:
            share = 2 * (cost.multiplied + cost.head / context) * float(np.median(rate)) / limits.flop_per_s
            of = (
                f"{protocol}; 2 operations a weight and token, those of the head for the last token alone, of "
                f"{limits.flop_per_s / 1e9:.0f} GFLOP/s measured"
            )
            metrics.append(
                _metric(conditions.name("prefill_flop_share", context), share, "ratio", True,
                        {"version": VERSION, "n": len(rate), "protocol": of})
            )  # fmt: skip
        metrics += _energy(conditions.name("prefill_j_per_token", context), [p.prefill_j for p in passes], context,
                           conditions, protocol)  # fmt: skip
    if point.steps:
        metrics += _decoding(point, passes, conditions, cost, limits)
    return metrics


def noise_metrics(passes: Sequence[Pass], conditions: Conditions) -> list[Metric]:
    """Load from other work while passes were timed, averaged over passes."""
    readings = [each.noise for each in passes if each.noise is not None]
    if not readings:
        return []
    common = {"version": VERSION, "n": len(readings), "protocol": f"{conditions.protocol}; share of all processor time"}
    stolen = float(np.mean([reading.stolen for reading in readings]))
    others = float(np.mean([reading.others for reading in readings]))
    return [
        _metric(conditions.name("noise_stolen"), stolen, "ratio", None, common),
        _metric(conditions.name("noise_others"), others, "ratio", None, common),
    ]


def paired_ratios(point: Point, passes: Sequence[Pass], baseline: Sequence[Pass]) -> dict[str, list[float]]:
    """Baseline time divided by own time, per round: `decode_speedup` and `prefill_speedup`; untimed parts are absent.

    Args:
        point: The point that was run.
        passes: One pass per round.
        baseline: The baseline's passes, in the same order.
    """
    pairs = list(zip(passes, baseline, strict=True))
    ratios: dict[str, list[float]] = {}
    if point.steps:
        ratios["decode_speedup"] = [sum(base.steps_s) / sum(this.steps_s) for this, base in pairs]
    prefills = [
        base.prefill_s / this.prefill_s
        for this, base in pairs
        if this.prefill_s is not None and base.prefill_s is not None
    ]
    if len(prefills) == len(pairs):
        ratios["prefill_speedup"] = prefills
    return ratios


def speedup_metrics(
    point: Point, paired: Mapping[str, Sequence[float]], conditions: Conditions, label: str
) -> list[Metric]:
    """Medians of `paired_ratios`, with standard errors from resampling the rounds.

    Args:
        point: The point that was run.
        paired: The ratios by name.
        conditions: Conditions of both runs.
        label: Name of the baseline in protocols.
    """
    protocol = f"{conditions.protocol}; against {label}, paired within rounds"
    metrics: list[Metric] = []
    for name, ratios in paired.items():
        median, *spread = _spread(conditions.name(name, point.context), ratios, "ratio", True, protocol)
        metrics += [median.model_copy(update={"stderr": _median_stderr(ratios)}), *spread]
    return metrics


def too_few_steps(point: Point, passes: Sequence[Pass]) -> str | None:
    """Note on inter-token quantiles that need more timed steps to be reported; None if all are reported."""
    timed = sum(len(each.steps_s) for each in passes)
    absent = [percent for percent in _QUANTILES if point.steps and timed < steps_for(percent)]
    if not absent:
        return None
    lacking = ", ".join(f"p{percent} needs {steps_for(percent)}" for percent in absent)
    return f"{timed} steps were timed after {point.context} tokens, too few for inter-token times: {lacking}"


def steps_for(percent: float) -> int:
    """Steps that a quantile needs: the largest of that many lies above it with a probability of 95 %."""
    return math.ceil(math.log(1 - _SURE) / math.log(percent / 100))


def _decoding(
    point: Point, passes: Sequence[Pass], conditions: Conditions, cost: TokenCost, limits: MachineLimits | None
) -> list[Metric]:
    protocol = f"{conditions.protocol}; {point.steps} greedy tokens after {point.context}, one by one"
    rate = [len(each.steps_s) / sum(each.steps_s) for each in passes]
    metrics = _spread(conditions.name("decode_tokens_per_s", point.context), rate, "tokens/s", True, protocol)
    steps = np.concatenate([each.steps_s for each in passes])
    for percent in (percent for percent in _QUANTILES if len(steps) >= steps_for(percent)):
        name = conditions.name(f"inter_token_p{percent}_s", point.context)
        common = {"version": VERSION, "n": len(steps), "protocol": protocol}
        metrics.append(_metric(name, float(np.percentile(steps, percent)), "s", False, common))
    if cost.read_bytes is not None:
        bandwidth = cost.read_bytes * float(np.median(rate))
        common = {"version": VERSION, "n": len(rate), "protocol": f"{protocol}; {cost.read_bytes} bytes a token"}
        metrics.append(
            _metric(conditions.name("decode_bytes_per_s", point.context), bandwidth, "bytes/s", True, common)
        )
        if limits is not None:
            of = f"{common['protocol']}, of {limits.read_bytes_per_s / 1e9:.1f} GB/s {limits.reading}"
            share = bandwidth / limits.read_bytes_per_s
            name = conditions.name("decode_bandwidth_share", point.context)
            metrics.append(_metric(name, share, "ratio", True, {**common, "protocol": of}))
    name = conditions.name("decode_j_per_token", point.context)
    return [*metrics, *_energy(name, [each.decode_j for each in passes], point.steps, conditions, protocol)]


def _energy(
    name: str, joules: Sequence[float | None], tokens: int, conditions: Conditions, protocol: str
) -> list[Metric]:
    """Energy per token; no metric if any pass has no reading."""
    known = [each / tokens for each in joules if each is not None]
    if not known or len(known) < len(joules):
        return []
    return _spread(name, known, "J", False, f"{protocol}; energy of {conditions.energy_of}")


def _spread(name: str, values: Sequence[float], unit: str, higher: bool, protocol: str) -> list[Metric]:
    """The median, and the interquartile range if there are several values."""
    common = {"version": VERSION, "n": len(values), "protocol": protocol}
    metrics = [_metric(name, float(np.median(values)), unit, higher, common)]
    if len(values) > 1:
        low, high = np.percentile(values, (25, 75))
        figure, at, conditions = name.partition("@") if "@" in name else name.partition("/")
        metrics.append(_metric(f"{figure}_iqr{at}{conditions}", float(high - low), unit, None, common))
    return metrics


def _median_stderr(values: Sequence[float]) -> float | None:
    """Bootstrap standard error of the median over rounds; None for a single round."""
    if len(values) < 2:
        return None
    drawn = np.random.default_rng(0).choice(np.asarray(values), size=(_RESAMPLES, len(values)))
    return float(np.median(drawn, axis=1).std(ddof=1))


def _metric(
    name: str, value: float, unit: str, higher: bool | None, common: dict[str, object]
) -> Metric:  # `common` is checked by pydantic
    return Metric.model_validate({"name": name, "value": value, "unit": unit, "higher_is_better": higher, **common})
