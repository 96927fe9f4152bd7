"""Our GGUF files beside llama.cpp's own of the same source: bytes, perplexity through llama.cpp, decode speed.

llama.cpp's Q4_0 and Q4_K_M are made by its own quantizer from the float32 file of the same model. Perplexity is over
windows of 512 tokens of WikiText-2's test split, each on its own, computed by llama.cpp; beside it stands torch's of
the same weights, where they are ours. With `--timing` all files are open at once and decode in turns, so that what
else the machine does meets all of them.

    python benchmarks/gguf_reach.py smollm2-135m-instruct --windows 10 --timing
"""

from __future__ import annotations

import argparse
import statistics
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
from slmquant.engines.llamacpp import ENGINE
from slmquant.formats._base import Export
from slmquant.formats.gguf import Gguf

OURS = ("rtn:W4A16g32", "rtn:W4A16g32E8", "gptq:W4A16g32E8", "gptq:W4A16E8", "kquant:Q4_0E8")
THEIRS = {"Q4_0": 2, "Q4_K_M": 15}
"""llama.cpp's file types by its numbers (`llama.h`)."""
WINDOW, ROUNDS, STEPS = 512, 15, 32


@dataclass(frozen=True)
class File:
    """One file, and torch's perplexity of the same weights where there is one."""

    name: str
    path: Path
    torch_ppl: float | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("--ours", nargs="+", default=OURS, metavar="METHOD:SCHEME")
    parser.add_argument("--windows", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--timing", action="store_true")
    parser.add_argument("--folder", type=Path, help="keep the files there, and take those that are there already")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        files, windows = make(arguments.model, arguments.ours, folder, arguments.windows)
        options = OpenOptions(arguments.threads, WINDOW)
        rates = decode_rates(files, windows[0], options) if arguments.timing else {}
        table = Table("file", "MB", "ppl, llama.cpp", "ppl, torch", "decode, tokens/s")
        for file in files:
            session = ENGINE.open(file.path, options)
            ppl = np.exp(np.mean([window_nll(session, window) for window in windows]))
            session.close()
            rate = f"{rates[file.name]:.1f}" if rates else "not measured"
            own = "" if file.torch_ppl is None else f"{file.torch_ppl:.3f}"
            table.add_row(file.name, f"{file.path.stat().st_size / 1e6:.1f}", f"{ppl:.3f}", own, rate)
    Console().print(table)


def make(model: str, ours: Sequence[str], folder: Path, count: int) -> tuple[list[File], list[list[int]]]:
    """Every file, and the windows of tokens that all are asked about."""
    files: list[File] = []
    windows: list[list[int]] = []
    for entry in ("none:W16A16", *ours):
        method, scheme = entry.split(":")
        path = folder / f"{method}-{scheme}.gguf"
        full = method == "none"
        if path.exists() and not full:
            files.append(File(f"{method} {scheme}", path, None))
            continue
        made = api.quantize(model, method, scheme)
        if not windows:
            ids = text_tokens(made.tokenizer, load_corpus("wikitext2_test").text).tolist()
            windows = [ids[WINDOW * place : WINDOW * (place + 1)] for place in range(count)]
        export = Export(made.quantized, made.tokenizer, made.source, made.source_sha256)
        (Gguf("F32") if full else Gguf()).write(export, path)
        files.append(File("float32" if full else f"{method} {scheme}", path, torch_ppl(made.quantized.model, windows)))
        if full:
            files += [File(f"llama.cpp {name}", quantized_by_them(path, name), None) for name in THEIRS]
    return files, windows


def quantized_by_them(source: Path, name: str) -> Path:
    """The file that llama.cpp's own quantizer makes of `source`."""
    from cyllama.llama import llama_cpp

    llama_cpp.set_log_callback(lambda _level, _text: None)  # a line for every tensor
    parameters = llama_cpp.LlamaModelQuantizeParams()
    parameters.ftype = THEIRS[name]
    path = source.with_name(f"llamacpp-{name}.gguf")
    llama_cpp.model_quantize(str(source), str(path), parameters)
    return path


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


def decode_rates(files: Sequence[File], tokens: Sequence[int], options: OpenOptions) -> dict[str, float]:
    """Median tokens per second of each file; every round visits all of them."""
    sessions = {file.name: ENGINE.open(file.path, options) for file in files}
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
