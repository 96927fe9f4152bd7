"""Our ONNX folders beside the int4 models of ONNX Runtime GenAI's own builder: bytes, perplexity, decode speed.

The builder reads the same weights in float32 and rounds them to nearest by its own rules. Perplexity is over windows
of 512 tokens of WikiText-2's test split, each on its own, computed by ONNX Runtime; beside it stands torch's of the
same weights, where they are ours. Both sides multiply at accuracy level 4. With `--timing` all folders are open at once
and decode in turns, so that what else the machine does meets all of them.

    python benchmarks/onnx_reach.py smollm2-135m-instruct --windows 10 --timing
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel

from slmquant import api
from slmquant.calib.corpora import load_corpus
from slmquant.calib.windows import text_tokens
from slmquant.engines._base import OpenOptions, Session
from slmquant.engines.onnxruntime import ENGINE
from slmquant.formats._base import Export
from slmquant.formats._onnx_builder import GRAPH, plain_model
from slmquant.formats.onnx import FORMAT

OURS = ("rtn:W4A16g32E4", "rtn:W4A16g64E8-asym", "gptq:W4A16g32E4-asym", "gptq:W4A16g64E8-asym")
THEIRS = {
    "int4, its defaults": ("accuracy_level=4",),
    "int4, zero points": ("accuracy_level=4", "is_symmetric=false", "shared_embeddings=false"),
}
"""Options of the builder; what it writes of tied embeddings with zero points, ONNX Runtime does not load."""
WINDOW, ROUNDS, STEPS = 512, 15, 32


@dataclass(frozen=True)
class Folder:
    """One model, and torch's perplexity of the same weights where there is one."""

    name: str
    path: Path
    torch_ppl: float | None

    @property
    def model_bytes(self) -> int:
        """What graph and tensors take, without the tokenizer."""
        return sum(file.stat().st_size for file in self.path.glob(f"{GRAPH}*"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("--ours", nargs="+", default=OURS, metavar="METHOD:SCHEME")
    parser.add_argument("--windows", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--timing", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folders, windows = make(arguments.model, arguments.ours, Path(temporary), arguments.windows)
        options = OpenOptions(arguments.threads, WINDOW)
        rates = decode_rates(folders, windows[0], options) if arguments.timing else {}
        table = Table("folder", "MB", "ppl, ONNX Runtime", "ppl, torch", "decode, tokens/s")
        for folder in folders:
            session = ENGINE.open(folder.path, options)
            ppl = np.exp(np.mean([window_nll(session, window) for window in windows]))
            session.close()
            rate = f"{rates[folder.name]:.1f}" if rates else "not measured"
            own = "" if folder.torch_ppl is None else f"{folder.torch_ppl:.3f}"
            table.add_row(folder.name, f"{folder.model_bytes / 1e6:.1f}", f"{ppl:.3f}", own, rate)
    Console().print(table)


def make(model: str, ours: Sequence[str], temporary: Path, count: int) -> tuple[list[Folder], list[list[int]]]:
    """Every folder, and the windows of tokens that all are asked about."""
    folders: list[Folder] = []
    windows: list[list[int]] = []
    for entry in ("none:W16A16", *ours):
        method, scheme = entry.split(":")
        made = api.quantize(model, method, scheme, dtype="float32")
        if not windows:
            ids = text_tokens(made.tokenizer, load_corpus("wikitext2_test").text).tolist()
            windows = [ids[WINDOW * place : WINDOW * (place + 1)] for place in range(count)]
        path = temporary / f"{method}-{scheme}"
        export = Export(made.quantized, made.tokenizer, made.source, made.source_sha256)
        FORMAT.write(export, path)
        full = method == "none"
        ppl = torch_ppl(made.quantized.model, windows)
        folders.append(Folder("float16" if full else f"{method} {scheme}", path, ppl))
        if full:
            folders += built_by_them(export, temporary)
    return folders, windows


def built_by_them(export: Export, temporary: Path) -> list[Folder]:
    """What the builder makes of the same weights at its command line."""
    source = temporary / "source"
    plain_model(export.quantized).save_pretrained(source)
    export.tokenizer.save_pretrained(source)
    folders = []
    for name, options in THEIRS.items():
        path = temporary / f"builder-{len(folders)}"
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", source, "-o", path]
        command += ["-p", "int4", "-e", "cpu", "-c", temporary / "cache", "--extra_options", *options]
        subprocess.run(command, check=True, capture_output=True)
        folders.append(Folder(f"GenAI's builder, {name}", path, None))
    return folders


@torch.inference_mode()
def torch_ppl(model: PreTrainedModel, windows: Sequence[Sequence[int]]) -> float:
    losses = []
    for window in windows:
        ids = torch.tensor([window])
        losses.append(torch.nn.functional.cross_entropy(model(ids).logits[0, :-1].float(), ids[0, 1:]).item())
    return float(np.exp(np.mean(losses)))


def window_nll(session: Session, window: Sequence[int]) -> float:
    session.reset()
    logits = torch.from_numpy(session.feed(window, every=True))
    return torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(window[1:])).item()


def decode_rates(folders: Sequence[Folder], tokens: Sequence[int], options: OpenOptions) -> dict[str, float]:
    """Median tokens per second of each folder; every round visits all of them."""
    sessions = {folder.name: ENGINE.open(folder.path, options) for folder in folders}
    seconds: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(ROUNDS + 1):  # the first warms up
        for name, session in sessions.items():
            session.reset()
            session.feed(tokens[:16])
            started = time.perf_counter()
            for token in tokens[16 : 16 + STEPS]:
                session.feed([token])
            seconds[name].append((time.perf_counter() - started) / STEPS)
    for session in sessions.values():
        session.close()
    return {name: 1 / statistics.median(taken[1:]) for name, taken in seconds.items()}


if __name__ == "__main__":
    main()
