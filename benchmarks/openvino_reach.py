"""Our OpenVINO files beside NNCF's int4 compression of the same graph: bytes, perplexity, decode speed.

NNCF compresses the float16 graph that our format writes of the model as it is, by its own rules (asymmetric int4 in
groups, embedding and head in int8), without data. Perplexity is over windows of 512 tokens of WikiText-2's test split,
each on its own, computed by OpenVINO; beside it stands torch's of the same weights, where they are ours. Ours are run
as their files say. NNCF's say nothing, and OpenVINO then rounds activations and cache to 8 bits; they are run so, and
also with the options of our files. With `--timing` all files are open at once and decode in turns, so that what else
the machine does meets all of them.

    pip install nncf   # in an environment of its own, where its dependencies disagree with slmquant's
    python benchmarks/openvino_reach.py smollm2-135m-instruct --windows 10 --timing
"""

from __future__ import annotations

import argparse
import shutil
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
from slmquant.engines.openvino import ENGINE
from slmquant.formats._base import Export
from slmquant.formats._openvino_package import import_openvino, unreported
from slmquant.formats.openvino import FORMAT, GRAPH, RUNTIME_OPTIONS

OURS = ("rtn:W4A16g64-asym", "rtn:W4A16g64E8-asym", "gptq:W4A16g64E8-asym")
DEFAULTS = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "32", "KV_CACHE_PRECISION": "u8"}
"""What OpenVINO does on a CPU with a file that says nothing."""
WINDOW, ROUNDS, STEPS = 512, 15, 32


@dataclass(frozen=True)
class File:
    """One folder, and torch's perplexity of the same weights where there is one."""

    name: str
    path: Path
    torch_ppl: float | None

    @property
    def constants_bytes(self) -> int:
        """What its weights take."""
        return (self.path / GRAPH).with_suffix(".bin").stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("--ours", nargs="+", default=OURS, metavar="METHOD:SCHEME")
    parser.add_argument("--group-size", type=int, default=64, help="of NNCF")
    parser.add_argument("--windows", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--timing", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files, windows = make(arguments.model, arguments.ours, Path(folder), arguments.windows, arguments.group_size)
        options = OpenOptions(arguments.threads, WINDOW)
        rates = decode_rates(files, windows[0], options) if arguments.timing else {}
        table = Table("file", "MB", "ppl, OpenVINO", "ppl, torch", "decode, tokens/s")
        for file in files:
            session = ENGINE.open(file.path, options)
            ppl = np.exp(np.mean([window_nll(session, window) for window in windows]))
            session.close()
            rate = f"{rates[file.name]:.1f}" if rates else "not measured"
            own = "" if file.torch_ppl is None else f"{file.torch_ppl:.3f}"
            table.add_row(file.name, f"{file.constants_bytes / 1e6:.1f}", f"{ppl:.3f}", own, rate)
    Console().print(table)


def make(
    model: str, ours: Sequence[str], folder: Path, count: int, group_size: int
) -> tuple[list[File], list[list[int]]]:
    """Every file, and the windows of tokens that all are asked about."""
    files: list[File] = []
    windows: list[list[int]] = []
    for entry in ("none:W16A16", *ours):
        method, scheme = entry.split(":")
        made = api.quantize(model, method, scheme, dtype="float32")
        if not windows:
            ids = text_tokens(made.tokenizer, load_corpus("wikitext2_test").text).tolist()
            windows = [ids[WINDOW * place : WINDOW * (place + 1)] for place in range(count)]
        path = folder / f"{method}-{scheme}"
        full = method == "none"
        FORMAT.write(Export(made.quantized, made.tokenizer, made.source, made.source_sha256), path)
        files.append(File("float16" if full else f"{method} {scheme}", path, torch_ppl(made.quantized.model, windows)))
        if full:
            files += compressed_by_them(path, group_size)
    return files, windows


def compressed_by_them(source: Path, group_size: int) -> list[File]:
    """NNCF's int4 of `source`, as OpenVINO runs it by itself, and with the options of our files."""
    ov = import_openvino()
    with unreported():
        import nncf
    graph = nncf.compress_weights(
        ov.Core().read_model(source / GRAPH), mode=nncf.CompressWeightsMode.INT4_ASYM, group_size=group_size, ratio=1.0
    )
    files = []
    for name, options in (("OpenVINO's defaults", DEFAULTS), ("our options", RUNTIME_OPTIONS)):
        path = source.with_name(f"nncf-{len(files)}")
        shutil.copytree(source, path)
        for option, value in options.items():
            graph.set_rt_info(value, ["runtime_options", option])
        ov.save_model(graph, path / GRAPH, compress_to_fp16=False)
        files.append(File(f"NNCF int4, {name}", path, None))
    return files


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
