"""The exchange folder of slmquant and its peers. Used in every environment, so it needs only torch and safetensors.

::

    FOLDER/model/                 the full-precision model as a transformers folder, the same for everybody
    FOLDER/calibration.npy        token ids, (samples, seq), int64
    FOLDER/results/NAME/weights.safetensors    every parameter of the quantized model, dequantized
    FOLDER/results/NAME/run.json  settings, library, seconds and bytes
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor


@dataclass(frozen=True)
class Request:
    """The quantization that every side is asked for.

    Attributes:
        folder: The exchange folder.
        name: Name of the result.
        bits: Bits per weight.
        group_size: Inputs that share a scale; None for one scale per output channel.
        symmetric: Whether codes are centred on 0.
        dtype: Compute dtype of the model during calibration.
        settings: Settings of one peer, as `key=value`.
    """

    folder: Path
    name: str
    bits: int
    group_size: int | None
    symmetric: bool
    dtype: torch.dtype
    settings: dict[str, str]

    @property
    def model(self) -> str:
        """Folder of the full-precision model."""
        return str(self.folder / "model")

    def calibration(self) -> Tensor:
        """Token ids, `(samples, seq)`; `samples=N` among the settings takes the first N."""
        ids = torch.from_numpy(np.load(self.folder / "calibration.npy"))
        return ids[: int(self.settings.get("samples", len(ids)))]


def request(description: str | None) -> Request:
    """Read the command line that all `quantize_*.py` share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--name", required=True, help="name of the result")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group-size", type=int, help="default: one scale per output channel")
    parser.add_argument("--symmetric", action="store_true")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="settings of this peer; may be repeated"
    )
    given = parser.parse_args()
    settings = dict(setting.split("=", 1) for setting in given.set)
    dtype = getattr(torch, given.dtype)
    return Request(given.folder, given.name, given.bits, given.group_size, given.symmetric, dtype, settings)


class Stopwatch:
    """Measures wall time and peak memory, from a loaded model and token ids to quantized weights in memory.

    Dequantizing everything for the comparison comes afterwards and is not counted.
    """

    def __enter__(self) -> Stopwatch:
        self.load_before = os.getloadavg()[0]
        self.started = time.perf_counter()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.seconds = time.perf_counter() - self.started
        unit = 1 if platform.system() == "Darwin" else 1024
        self.peak_rss_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@dataclass(frozen=True)
class Run:
    """One quantization, as stored in `run.json`.

    Attributes:
        name: Name of the result.
        library: Distribution and version that made it.
        bits, group_size, symmetric, dtype, settings: The request.
        quantize_s: Wall seconds.
        peak_rss_bytes: Highest resident memory of the process until then, including imports and the loaded model.
        threads: Number of torch's threads.
        load_before: The machine's load average over the minute before; above 1, times are unreliable.
        torch: Version of torch.
        processor: The operating system's name of the processor.
    """

    name: str
    library: str
    bits: int
    group_size: int | None
    symmetric: bool
    dtype: str
    settings: dict[str, str]
    quantize_s: float
    peak_rss_bytes: int
    threads: int
    load_before: float
    torch: str
    processor: str


def deliver(asked: Request, distribution: str, watch: Stopwatch, weights: dict[str, Tensor]) -> None:
    """Write weights and `run.json`; `weights` has every parameter under its name in a plain transformers model."""
    folder = asked.folder / "results" / asked.name
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: weight.detach().contiguous().clone() for name, weight in weights.items()}, folder / "weights.safetensors"
    )
    run = Run(
        name=asked.name,
        library=f"{distribution} {version(distribution)}",
        bits=asked.bits,
        group_size=asked.group_size,
        symmetric=asked.symmetric,
        dtype=str(asked.dtype).removeprefix("torch."),
        settings=asked.settings,
        quantize_s=watch.seconds,
        peak_rss_bytes=watch.peak_rss_bytes,
        threads=torch.get_num_threads(),
        load_before=watch.load_before,
        torch=torch.__version__,
        processor=platform.processor() or platform.machine(),
    )
    (folder / "run.json").write_text(json.dumps(asdict(run), indent=2))
    print(f"{asked.name}: {run.library}, {run.quantize_s:.1f} s, peak {run.peak_rss_bytes / 1e6:.0f} MB")
