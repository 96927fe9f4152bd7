"""Compares files of `slmq` with llama.cpp's own of the same size, in llama.cpp.

llama.cpp's files are made by its own quantizer without data and with an importance matrix from the same calibration
tokens (see `importance.py`); ours get the sizes of two of them, and a smaller one. Differences below the table are of
divergence from the float32 file, window by window.

    python benchmarks/slmq_reach.py smollm2-135m-instruct --windows 64 --timing
"""

from __future__ import annotations

from functools import partial

import gguf_reach
import reach

from slmquant.formats.gguf.writer import Gguf

OURS = ("slmq:80MB", "slmq:91.74MB", "slmq:105.47MB", "gptq_mse:Q4_0E8", "gptq_mse:Q4_K_M")
THEIRS = {"Q4_0": 2, "IQ4_NL": 25, "Q3_K_M": 12, "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_S": 16}


if __name__ == "__main__":
    reach.main(
        __doc__ or "",
        reach.Contest(
            engine="llamacpp",
            full=("float32", Gguf("F32")),
            usual=("float16", Gguf("F16")),
            ours=Gguf(),
            entries=OURS,
            theirs=partial(gguf_reach.quantized_by_them, types=THEIRS),
            weight_bytes=lambda path: path.stat().st_size,
            by_divergence=True,
        ),
    )
