"""Hashes of everything a run reads, computed once at its start; they are part of each cell's identity."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from slmquant import methods, tasks, versions
from slmquant.calib.corpora import load_corpus
from slmquant.errors import DataError, ModelError, SlmquantError
from slmquant.model.sources.identity import config_sha256, tokenizer_sha256
from slmquant.model.sources.load import LoadedModel
from slmquant.progress import Progress
from slmquant.schemes.scheme import CHOSEN
from slmquant.store.inputs import UNKNOWN, Inputs
from slmquant.store.record import CellSpec, DataCard, TaskSpec


@dataclass(frozen=True)
class DataJob:
    """The data of a plan, to be hashed."""

    corpora: tuple[str, ...]
    tasks: tuple[TaskSpec, ...]
    data_dir: Path | None


@dataclass(frozen=True)
class Data:
    """Hashes of the data of a plan.

    Attributes:
        corpora: Name of a calibration text → its hash; `UNKNOWN` if it is not available.
        tasks: Name of a task → hash of its text or rows, or `UNKNOWN`.
        absent: Name of a text or task that is not available → the reason.
    """

    corpora: Mapping[str, str]
    tasks: Mapping[str, str]
    absent: Mapping[str, str] = field(default_factory=dict)


def read_data(job: DataJob, progress: Progress) -> Data:
    """Hash the calibration texts and every task's data; a second or two for each."""
    names = list(dict.fromkeys(spec.name for spec in job.tasks))
    progress.start("hash the data", len(names) + len(job.corpora))
    absent: dict[str, str] = {}

    def known(name: str, read: Callable[[], str]) -> str:
        """A hash, or `UNKNOWN` if the data is not available; cells that need it will say so in their rows."""
        try:
            return read()
        except SlmquantError as error:
            absent[name] = str(error)
            return UNKNOWN
        finally:
            progress.advance()

    corpora = {name: known(name, partial(_corpus_sha256, name, job.data_dir, progress)) for name in job.corpora}
    hashes = {
        name: known(name, partial(tasks.resolve(TaskSpec(name=name)).data_sha256, job.data_dir, progress))
        for name in names
    }
    return Data(corpora, hashes, absent)


def _corpus_sha256(name: str, data_dir: Path | None, progress: Progress) -> str:
    return load_corpus(name, data_dir, progress).card.sha256


@dataclass(frozen=True)
class Contents:
    """Hashes of everything that the cells of one model read."""

    config_sha256: str
    tokenizer_sha256: str
    data: Data

    @classmethod
    def of(cls, folder: Path, data: Data) -> Contents:
        """Hash the configuration and tokenizer in `folder`, and add the hashes of `data`.

        Raises:
            ModelError: A configuration is damaged.
        """
        return cls(config_sha256(folder), tokenizer_sha256(folder), data)

    def inputs(self, method: str, scheme: str, specs: Sequence[TaskSpec], corpus: str | None) -> Inputs:
        """The inputs of one cell, for its identity; `corpus` is its calibration text, None if it uses none."""
        names = list(dict.fromkeys(spec.name for spec in specs))
        kinds = {"size", *(tasks.resolve(TaskSpec(name=name)).metrics for name in names)}
        stages = set() if corpus is None else {"calibration"}
        if method != methods.REFERENCE:
            stages |= {"quantization"} | ({"choosing"} if scheme.startswith(CHOSEN) else set())
            kinds |= {"consumption"}
        return Inputs(
            config_sha256=self.config_sha256,
            tokenizer_sha256=self.tokenizer_sha256,
            calibration_sha256=None if corpus is None else self.data.corpora[corpus],
            data_sha256=tuple((name, self.data.tasks[name]) for name in names),
            stages=tuple((name, version) for name, version in versions.STAGES.items() if name in stages),
            methods=tuple(versions.of_method(method).items()),
            metrics=tuple((name, version) for name, version in versions.METRICS.items() if name in kinds),
        )


def check_model(spec: CellSpec, loaded: LoadedModel) -> None:
    """Check that a cell's loaded model is the one that its row will name.

    Raises:
        ModelError: Weights, configuration or tokenizer have changed since the run started.
    """
    pairs = [("weights", spec.model_sha256, loaded.sha256)]
    if (inputs := spec.inputs) is not None:
        pairs.append(("configuration", inputs.config_sha256, config_sha256(loaded.folder)))
        pairs.append(("tokenizer", inputs.tokenizer_sha256, tokenizer_sha256(loaded.folder)))
    for what, expected, found in pairs:
        if expected != found:
            raise ModelError(
                f"the {what} of {spec.model} changed during the run (SHA-256 {found[:16]}, expected "
                f"{expected[:16]} as at its start); run the same command again to measure the present files"
            )


def check_calibration(spec: CellSpec, cards: Sequence[DataCard]) -> None:
    """Check that a cell was calibrated on the text that its row will name.

    Raises:
        DataError: The text has changed since the run started.
    """
    expected = None if spec.inputs is None else spec.inputs.calibration_sha256
    for card in cards:
        if expected not in (None, UNKNOWN, card.sha256):
            raise DataError(
                f"the text {card.name} changed during the run (SHA-256 {card.sha256[:16]}, expected "
                f"{str(expected)[:16]} as at its start); run the same command again"
            )
