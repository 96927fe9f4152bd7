"""What each step of `slmq` is worth at one file size, in llama.cpp: types, rounding, drift, lookups, tuning.

Every file but the first has the types that `slmq` chooses for the size of llama.cpp's Q4_0. Differences below the table
are of divergence from the float32 file, window by window, of `slmq` from every other row.

    python benchmarks/slmq_ablation.py smollm2-135m-instruct --windows 16
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import reach

from slmquant import api
from slmquant.formats.gguf.writer import Gguf
from slmquant.store.record import CalibrationSpec

SIZE = "91.74MB"
STEPS = (
    "gptq_mse:Q4_0E8",  # a table of types, as everywhere
    "gptq_mse+scale_tuning:Q4_0E8",
    f"rtn:{SIZE}",
    f"gptq:{SIZE}",
    f"gptq_sink:{SIZE}",
    f"gptq_mse:{SIZE}",
    f"gptaq_mse:{SIZE}",
    f"gptq_mse+scale_tuning:{SIZE}",
)


def steps(plain: api.Artifact, _source: Path, folder: Path, calibration: CalibrationSpec) -> Iterator[reach.Artifact]:
    """The files of every step."""
    for entry in STEPS:
        path = folder / f"{entry.replace(':', '-')}.gguf"
        if not path.exists():
            Gguf().write(reach.quantized(entry, plain, calibration), path)
        yield reach.Artifact(entry, path)


if __name__ == "__main__":
    reach.main(
        __doc__ or "",
        reach.Contest(
            engine="llamacpp",
            full=("float32", Gguf("F32")),
            ours=Gguf(),
            entries=(f"slmq:{SIZE}",),
            theirs=steps,
            weight_bytes=lambda path: path.stat().st_size,
            by_divergence=True,
        ),
    )
