"""A model under diagnosis: its full-precision states on some text, and the quantized model with its switches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
import transformers
from jaxtyping import Float
from pydantic import TypeAdapter
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from slmquant import methods
from slmquant.analysis.difference import FEWEST_WINDOWS
from slmquant.cache.entries import entry_path, get
from slmquant.cache.write import About, put
from slmquant.calib.cached import CachedCalibration
from slmquant.calib.capture import capture
from slmquant.calib.corpora import load_corpus
from slmquant.calib.statistics import Statistic
from slmquant.calib.windows import spread_sample
from slmquant.diagnosis.switches import Rounded, Switches
from slmquant.errors import DataError, NumericalError, RefusedError
from slmquant.model.compatibility.context import fitting
from slmquant.model.computing.activations import ActivationQuantizer
from slmquant.model.computing.modes import MODES
from slmquant.model.discovery.relations import discover
from slmquant.model.running.trial import Trial
from slmquant.model.sources.identity import key_of
from slmquant.model.sources.load import LoadedModel, load
from slmquant.model.sources.resolve import public_name
from slmquant.model.structure import Relations
from slmquant.places import Places
from slmquant.progress import Progress
from slmquant.quantization import quantize_
from slmquant.runs.precision import Dtype, chosen_dtype
from slmquant.schemes import Scheme
from slmquant.store.experiments import Divergence, Sample
from slmquant.store.record import Budget, CalibrationSpec, ComputeDtype
from slmquant.versions import METRICS, STAGES, of_method

_VERSION = 1
"""Raised when cells are measured differently, so that older ones are not read."""
_STORED = TypeAdapter(Divergence)
_RANGE = frozenset[Statistic]({"range"})


@dataclass(frozen=True)
class Setup:
    """What is measured on a model, and how.

    Attributes:
        source: The model.
        method: The method that rounds.
        calibration: The calibration set, for a method that uses one.
        texts: Names of corpora to measure on.
        windows: Number of windows of each text.
        length: Tokens of a window.
        dtype: Compute dtype; `auto` decides.
        seed: Seed of the method.
        budget: Budget of a method that learns.
        places: Where data and cache are.
    """

    source: str
    method: str
    calibration: CalibrationSpec
    texts: tuple[str, ...]
    windows: int
    length: int
    dtype: Dtype
    seed: int
    budget: Budget
    places: Places


@dataclass(frozen=True)
class Subject:
    """A quantized model to experiment with, and what identifies it.

    Attributes:
        trial: Measures the divergence of the model as it is; its windows are those of all texts, one after the other.
        switches: Sets what is rounded.
        relations: The structure of the model.
        tokenizer: Its tokenizer.
        samples: The windows of each text.
        compute_dtype: What products are computed in.
        calibration: None if the method uses no data.
        model_sha256: Fingerprint of the full-precision weights.
        setup: What is measured, and how.
        key: Everything that decides a measurement but its label, as JSON values.
    """

    trial: Trial
    switches: Switches
    relations: Relations
    tokenizer: PreTrainedTokenizerBase
    samples: tuple[Sample, ...]
    compute_dtype: ComputeDtype
    calibration: CalibrationSpec | None
    model_sha256: str
    setup: Setup
    key: tuple[object, ...]

    @torch.no_grad()
    def tokens(
        self, rounded: Rounded, quantizers: Mapping[str, ActivationQuantizer] | None = None
    ) -> Float[Tensor, "windows predictions"]:
        """KL from full precision at every prediction, in nats, with only `rounded` rounded.

        Args:
            rounded: What to round.
            quantizers: Linear → a quantizer of its input to use instead of the scheme's.

        Raises:
            NumericalError: It is not finite.
        """
        self.switches.set_(rounded, quantizers)
        found = self.trial.tokens()
        if not torch.isfinite(found).all():
            bad = int((~torch.isfinite(found)).sum())
            raise NumericalError(
                f"the divergence is not finite at {bad} of {found.numel()} predictions; use a scheme with more bits, "
                "or measure in float32 (--dtype)"
            )
        return found

    def magnitudes(self, progress: Progress) -> dict[str, Float[Tensor, " in"]]:
        """First linear of every input → largest magnitude of each channel over the windows, in full precision."""
        self.switches.set_(Rounded())
        captured = capture(self.trial.model, self.relations, self.trial.windows, _RANGE, progress)
        return {group.linears[0]: captured.statistics[group.linears[0]].absmax for group in self.relations.groups}

    def by_window(self, tokens: Float[Tensor, "windows predictions"]) -> Divergence:
        """The mean of each window of each text."""
        means = tokens.double().mean(dim=1).split([len(sample.positions) for sample in self.samples])
        return tuple(tuple(text.tolist()) for text in means)

    def measured(self, rounded: Rounded) -> Divergence:
        """The mean divergence of every window with only `rounded` rounded; see `kept`."""
        label = [sorted(names) for names in (rounded.weights, rounded.inputs, rounded.caches)]
        return self.kept(label, partial(self.tokens, rounded))

    def kept(self, label: object, measure: Callable[[], Float[Tensor, "windows predictions"]]) -> Divergence:
        """The mean divergence of every window; measured once, then read from the cache.

        Args:
            label: What sets this measurement apart from the others of this subject, as JSON values.
            measure: Measures it.
        """
        entry = entry_path(self.setup.places.cache_dir, "experiment", [*self.key, label])
        if (known := get(entry)) is not None:
            return _STORED.validate_json(known)
        found = self.by_window(measure())
        put(entry, About(public_name(self.setup.source), "a cell of an experiment"), _STORED.dump_json(found))
        return found


def prepare(setup: Setup, scheme: Scheme, progress: Progress) -> Subject:
    """Load a model, keep its full-precision states, and quantize it.

    Raises:
        SlmquantError: It cannot be done; the message says why.
    """
    recipe = methods.load(setup.method)
    looks = recipe.looks_at_data(scheme)
    if looks and setup.calibration.corpus in setup.texts:
        raise RefusedError(
            f"{setup.method} is calibrated on {setup.calibration.corpus}, so that text cannot judge it; use another"
        )
    loaded = load(setup.source, progress=progress)
    samples, windows = _windows(setup, loaded, progress)
    places, corpus = setup.places, setup.calibration.corpus
    dtype = chosen_dtype(setup.source, setup.dtype, "cpu", corpus, places, progress, loaded)
    needs = recipe.needs_for(scheme)
    calibration = CachedCalibration.of(setup.source, setup.calibration, needs, dtype, "cpu", places, progress, loaded)
    relations, trial = discover(loaded.model), Trial(loaded.model, windows, MODES[dtype])
    dense: dict[str, Tensor] = {}
    quantized = quantize_(
        loaded.model,
        setup.method,
        scheme,
        calibration,
        dtype=MODES[dtype].linears,
        seed=setup.seed,
        budget=setup.budget,
        progress=progress,
        relations=relations,
        dense=dense,
    )
    spec = setup.calibration if looks else None
    texts = [load_corpus(corpus, places.data_dir).card.sha256] if looks else []
    key = (
        *(_VERSION, METRICS["text"], STAGES["quantization"], of_method(setup.method), key_of(setup.source)),
        *(setup.method, str(scheme), scheme.listed, None if spec is None else spec.model_dump(), texts),
        *(setup.seed, setup.budget, [sample.model_dump() for sample in samples], dtype),
        *(torch.__version__, transformers.__version__),
    )
    switches = Switches(quantized, dense)
    return Subject(trial, switches, relations, loaded.tokenizer, samples, dtype, spec, loaded.sha256, setup, key)


def _windows(setup: Setup, loaded: LoadedModel, progress: Progress) -> tuple[tuple[Sample, ...], Tensor]:
    """The windows of each text, and the ids of all of them.

    Raises:
        DataError: A text has fewer windows than a verdict needs.
    """
    length, samples, ids = fitting(setup.length, loaded.model.config), list[Sample](), list[Tensor]()
    for name in setup.texts:
        corpus = load_corpus(name, setup.places.data_dir, progress)
        found = spread_sample(loaded.tokenizer, corpus, length, setup.windows)
        if len(found.ids) < FEWEST_WINDOWS:
            raise DataError(
                f"{name} has {found.available} windows of {length} tokens, and a verdict needs {FEWEST_WINDOWS}; "
                "give a longer text, or shorter windows (--length)"
            )
        ids.append(found.ids)
        samples.append(Sample(corpus=name, sha256=corpus.card.sha256, length=length, positions=tuple(found.positions)))
    return tuple(samples), torch.cat(ids)
