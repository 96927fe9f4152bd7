"""What one cell of a benchmark leaves behind: the only bridge between running models and reading results.

A `Record` is complete by itself: what was asked (`CellSpec`), what came of it (`status`, `reason`,
`metrics`), what it cost (`phases`), on what data and on which machine. Everything is JSON.
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

SCHEMA_VERSION = 2
"""Raised when the stored form of a record changes. Every change so far only added fields that may be absent, so records
of older schemas are read as they are. 1: no `inputs`. 2: `inputs`."""

Status = Literal["ok", "refused", "failed", "timeout", "out_of_memory"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CalibrationSpec(_Frozen):
    """What a method may look at."""

    corpus: str = "wikitext2_train"
    """Name of the corpus; see `slmquant tasks --corpora`."""
    num_samples: int = Field(default=128, ge=1)
    """Number of windows."""
    seq_len: int = Field(default=512, ge=8)
    """Tokens in a window."""
    seed: int = 0
    """Which windows are drawn."""


class TaskSpec(_Frozen):
    """One task, and how much of it. Written `name`, `name:limit`, `name:limit@seed` or `name:limit@seed~confidence`."""

    name: str
    limit: int | None = Field(default=None, ge=1)
    """Items of a zero-shot task or windows of a text; None is all of them."""
    order_seed: int | None = Field(default=None, ge=0)
    """Items are asked in the random order of this seed; None is the order of the data."""
    until_separated: float | None = Field(default=None, gt=0.5, lt=1)
    """Only as many items are asked as tell the compared cells apart with this confidence; None is all of them."""

    @model_serializer(mode="wrap")
    def _omit_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave out how items are ordered where nothing is said of it: the ids of older cells stay what they were."""
        fields: dict[str, object] = dump(self)
        return {name: value for name, value in fields.items() if value is not None or name in ("name", "limit")}

    @model_validator(mode="after")
    def _has_an_order(self) -> TaskSpec:
        if self.until_separated is not None and self.order_seed is None:
            raise ValueError(f"task {self.name!r} stops early, which needs a random order; give it a seed")
        return self

    def __str__(self) -> str:
        limit = "" if self.limit is None else f":{self.limit}"
        order = "" if self.order_seed is None else f"@{self.order_seed}"
        return f"{self.name}{limit}{order}{'' if self.until_separated is None else f'~{self.until_separated:g}'}"


def task_name(label: str) -> str:
    """The name of a task that is written as `str(TaskSpec)` writes it."""
    return label.split("@")[0].split(":")[0]


class CellSpec(_Frozen):
    """The identity of a cell. Two cells with the same `cell_id` would measure the same thing."""

    model: str
    """Model source, as given (`smollm2-135m-instruct`, a hub id, a file name)."""
    model_sha256: str
    """Fingerprint of its weights: a model that changed is another cell."""
    method: str
    scheme: str
    """Canonical scheme name."""
    calibration: CalibrationSpec | None = None
    """None where the method looks at no data."""
    tasks: tuple[TaskSpec, ...] = ()
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """What evaluation computes in."""
    device: str = "cpu"
    seed: int = 0
    budget: Literal["fast", "paper"] | None = None
    """What learning may cost; None where the method does not learn."""
    engine: str | None = None
    """The engine that runs the exported model, which is then asked no tasks; None for a model measured in torch."""
    inputs: Inputs | None = None
    """Hashes of all else that it reads, and versions of its code; None in rows of slmquant's first schema."""

    @model_serializer(mode="wrap")
    def _omit_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave out an engine or inputs that there are none of: the ids of older cells stay what they were."""
        fields: dict[str, object] = dump(self)
        return {n: value for n, value in fields.items() if value is not None or n not in ("engine", "inputs")}

    def on(self, engine: str) -> CellSpec:
        """The cell in which an engine runs what this one quantizes."""
        inputs = None if self.inputs is None else self.inputs.on_engine()
        return self.model_copy(update={"engine": engine, "tasks": (), "inputs": inputs})

    @property
    def question(self) -> CellSpec:
        """What was asked for by name, whatever the model's files and the data held and whichever code answered."""
        return self.model_copy(update={"model_sha256": "", "inputs": None})

    @property
    def model_key(self) -> str:
        """One hash of weights, configuration and tokenizer, as far as they are known: the name of what is cached."""
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
        """`model/method/scheme`, and the engine where there is one, as tables print it."""
        return f"{self.model}/{self.method}/{self.scheme}" + ("" if self.engine is None else f"/{self.engine}")


class Metric(_Frozen):
    """One number with its meaning. An unknown number has no `Metric`; it is never 0."""

    name: str
    """`perplexity`, `kl_mean`, `acc`, `stored_bytes`, `quantize_s`, ..."""
    value: FiniteFloat
    unit: str
    """`nats`, `ratio`, `bytes`, `bits`, `s`, `tokens`, `count`, or `1` for a pure number."""
    higher_is_better: bool | None
    """None where neither direction is better."""
    task: str | None = None
    """The task it was measured on, as `str(TaskSpec)`; None for figures of the model itself."""
    n: int | None = None
    """How many tokens or items it is an average of."""
    stderr: FiniteFloat | None = None
    """Standard error of `value`, in its unit."""
    clusters: int | None = None
    """How many windows of a text the standard error rests on; None where the `n` items are independent themselves."""
    freedom: FiniteFloat | None = Field(default=None, ge=1)
    """Degrees of freedom of `stderr`; None where they are `clusters` − 1, or the `n` items' own."""
    version: int = 1
    """Version of the metric's definition; see `tracks`."""
    protocol: str | None = None
    """How it was measured, where that changes the number (text, window, stride, BOS)."""


class Repeat(_Frozen):
    """One of several runs of the same phase."""

    seconds: float
    cpu_s: float
    added_rss_bytes: int | None
    noise: float | None


class Phase(_Frozen):
    """Time and memory of one step of a cell."""

    name: str
    """`load`, `capture`, `quantize`, `evaluate`, ..."""
    seconds: float
    """Wall time."""
    cpu_s: float | None = None
    """Processor time of the cell's own process, over all its threads."""
    added_rss_bytes: int | None = None
    """Highest resident memory within the phase, less what was resident when it began."""
    noise: float | None = None
    """Share of the machine's processor time that others used meanwhile, or other machines on the same host."""
    repeated: tuple[Repeat, ...] = ()
    """Every run, where a short phase was repeated in processes of its own; the figures above are then medians."""
    peak_rss_bytes: int | None = None
    """Highest resident memory of the cell's own process up to the end of this phase."""
    shared: bool = False
    """True where the work was done once for several cells and is charged to each that used it."""


class ItemOutcome(_Frozen):
    """What the model answered on one item, kept so that cells can be compared in pairs."""

    task: str
    item: str
    """The item's index in its split."""
    values: dict[str, float]
    """Per-item metrics (`acc`: 0 or 1, ...)."""
    text: str | None = None
    """What the model wrote, where it is kept for eyes to read."""


class DataCard(_Frozen):
    """Where data came from and exactly which data it was."""

    name: str
    split: str
    rows: int
    """Documents or items of the whole split."""
    sha256: str
    """Of the rows' canonical JSON, or of the text."""
    licence: str
    source: str
    """`hub:<id>`, `folder`, or `package:<name>==<version>`; never a path of this machine."""


class Environment(_Frozen):
    """On what a cell ran."""

    platform: str
    cpu: str
    cpu_flags: tuple[str, ...] = ()
    """The instruction sets that matter here: avx2, avx512f, avx512_bf16, amx_bf16, neon, ..."""
    cores: int
    threads: int
    memory_bytes: int
    gpu: str | None = None
    python: str
    versions: dict[str, str]
    """Package → version: slmquant, torch, transformers, lm_eval, ..."""
    git_revision: str | None = None
    """Of slmquant's own checkout, with `+dirty` where it had changes; None for an installed package."""


class ModelCard(_Frozen):
    """What is known of the model that was measured."""

    architecture: str
    """`model_type` of its config."""
    parameters: int
    """Tied weights counted once."""
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
    """Why it is not `ok`: one line; or a remark on an `ok` cell."""
    metrics: tuple[Metric, ...] = ()
    phases: tuple[Phase, ...] = ()
    data: tuple[DataCard, ...] = ()
    model: ModelCard | None = None
    environment: Environment
    started_at: datetime
    finished_at: datetime

    @property
    def cell_id(self) -> str:
        """The identity of its cell."""
        return self.spec.cell_id

    def metric(self, name: str, task: str | None = None) -> Metric | None:
        """The metric of that name (and task, where given), or None where it was not measured."""
        for metric in self.metrics:
            if metric.name == name and (task is None or metric.task == task):
                return metric
        return None
