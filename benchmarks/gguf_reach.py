"""Compares our GGUF files with llama.cpp's own of the same model: bytes, perplexity in llama.cpp, decode speed.

llama.cpp's Q4_0, IQ4_NL and Q4_K_M are made by its own quantizer from the float32 file of the same model: without data,
and with an importance matrix from our methods' calibration tokens (see `importance.py`). Divergence is from the float32
file; the baseline of speed is float16, the format's own default. See `reach.py` for how they are compared.

    python benchmarks/gguf_reach.py smollm2-135m-instruct --windows 32 --timing
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import importance
import reach

from slmquant import api
from slmquant.formats.gguf.writer import Gguf
from slmquant.store.record import CalibrationSpec

OURS = ("gptq_mse:Q4_0E8", "gptq_mse:IQ4_NLE8", "gptq_mse:Q4_0_S", "gptq_mse:Q4_0_M", "gptq_mse:Q4_K_M")
THEIRS = {"Q4_0": 2, "IQ4_NL": 25, "Q4_K_M": 15}
"""llama.cpp's file types → their numbers in `llama.h`."""


def quantized_by_them(
    plain: api.Artifact,
    source: Path,
    _folder: Path,
    calibration: CalibrationSpec,
    types: Mapping[str, int] = MappingProxyType(THEIRS),
) -> Iterator[reach.Artifact]:
    """Files that llama.cpp's own quantizer makes from `source`, without data and with an importance matrix."""
    from cyllama.llama import llama_cpp

    llama_cpp.set_log_callback(lambda _level, _text: None)  # a line for every tensor
    matrix = importance.importance(plain, calibration)
    for name, number in types.items():
        parameters = llama_cpp.LlamaModelQuantizeParams()
        parameters.ftype = number
        path = source.with_name(f"llamacpp-{name}.gguf")
        llama_cpp.model_quantize(str(source), str(path), parameters)
        yield reach.Artifact(f"llama.cpp {name}", path)
        with_matrix = source.with_name(f"llamacpp-{name}-imatrix.gguf")
        importance.requantize(source, path, matrix, with_matrix)
        yield reach.Artifact(f"llama.cpp {name}, imatrix", with_matrix)


if __name__ == "__main__":
    reach.main(
        __doc__ or "",
        reach.Contest(
            engine="llamacpp",
            full=("float32", Gguf("F32")),
            usual=("float16", Gguf("F16")),
            ours=Gguf(),
            entries=OURS,
            theirs=quantized_by_them,
            weight_bytes=lambda path: path.stat().st_size,
        ),
    )
