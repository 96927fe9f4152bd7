"""Compares our ONNX folders with the int4 models of ONNX Runtime GenAI's builder: bytes, perplexity, decode speed.

The builder reads the same weights in float32 and rounds them to nearest by its own rules. Both sides multiply at
accuracy level 4. See `reach.py` for how they are compared.

    python benchmarks/onnx_reach.py smollm2-135m-instruct --windows 8 --timing
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import reach

from slmquant import api
from slmquant.formats.onnx.float_graph import GRAPH, plain_model
from slmquant.formats.onnx.writer import FORMAT
from slmquant.store.record import CalibrationSpec

OURS = ("rtn:W4A16g32E4", "rtn:W4A16g64E8-asym", "gptq_sink:W4A16g32E4-asym", "gptq_sink:W4A16g64E8-asym")
THEIRS = {
    "int4, its defaults": ("accuracy_level=4",),
    "int4, zero points": ("accuracy_level=4", "is_symmetric=false", "shared_embeddings=false"),
}
"""Options of the builder; embeddings are not shared with zero points, as ONNX Runtime cannot load such models."""


def built_by_them(
    plain: api.Artifact, _path: Path, folder: Path, _calibration: CalibrationSpec
) -> Iterator[reach.Artifact]:
    """Models that the builder's command line makes from the same weights."""
    source = folder / "source"
    plain_model(plain.quantized).save_pretrained(source)
    plain.tokenizer.save_pretrained(source)
    for number, (name, options) in enumerate(THEIRS.items()):
        path = folder / f"builder-{number}"
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(source), "-o", str(path)]
        command += ["-p", "int4", "-e", "cpu", "-c", str(folder / "cache"), "--extra_options", *options]
        subprocess.run(command, check=True, capture_output=True)
        yield reach.Artifact(f"GenAI's builder, {name}", path)


if __name__ == "__main__":
    reach.main(
        __doc__ or "",
        reach.Contest(
            engine="onnxruntime",
            full=("float16", FORMAT),
            ours=FORMAT,
            entries=OURS,
            theirs=built_by_them,
            weight_bytes=lambda path: sum(file.stat().st_size for file in path.glob(f"{GRAPH}*")),
        ),
    )
