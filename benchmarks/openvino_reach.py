"""Compares our OpenVINO files with NNCF's int4 compression of the same graph: bytes, perplexity, decode speed.

NNCF compresses the float16 graph that our format writes of the unquantized model, by its own rules (asymmetric int4 in
groups, embedding and head in int8), without data. NNCF's files contain no run-time options, so that OpenVINO rounds
activations and cache to 8 bits; ours contain options against that. Both are run both ways. See `reach.py` for how
they are compared.

    pip install nncf   # in a separate environment if its dependencies conflict with slmquant's
    python benchmarks/openvino_reach.py smollm2-135m-instruct --windows 8 --timing
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import reach

from slmquant import api
from slmquant.formats.openvino.runtime import GRAPH, import_openvino, unreported
from slmquant.formats.openvino.writer import FORMAT, RUNTIME_OPTIONS
from slmquant.store.record import CalibrationSpec

if TYPE_CHECKING:
    import openvino as ov

OURS = ("rtn:W4A16g64-asym", "rtn:W4A16g64E8-asym", "gptq_sink:W4A16g64E8-asym")
GROUP_SIZE = 64
"""Group size of NNCF's files, the same as ours."""
DEFAULTS = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "32", "KV_CACHE_PRECISION": "u8"}
"""OpenVINO's defaults on a CPU for a file without run-time options."""


def compressed_by_them(
    _plain: api.Artifact, source: Path, folder: Path, _calibration: CalibrationSpec
) -> Iterator[reach.Artifact]:
    """NNCF's int4 version of `source`, with OpenVINO's defaults and with the options of our files."""
    ov = import_openvino()
    with unreported():
        import nncf
    graph = nncf.compress_weights(
        ov.Core().read_model(source / GRAPH), mode=nncf.CompressWeightsMode.INT4_ASYM, group_size=GROUP_SIZE, ratio=1.0
    )
    for number, (name, options) in enumerate((("OpenVINO's defaults", DEFAULTS), ("our options", RUNTIME_OPTIONS))):
        path = folder / f"nncf-{number}"
        write(graph, source, path, options)
        yield reach.Artifact(f"NNCF int4, {name}", path)


def with_defaults(ours: reach.Artifact, folder: Path) -> Iterator[reach.Artifact]:
    """One of our files, with OpenVINO's defaults."""
    path = folder / f"{ours.path.name}-defaults"
    write(import_openvino().Core().read_model(ours.path / GRAPH), ours.path, path, DEFAULTS)
    yield reach.Artifact(f"{ours.name}, OpenVINO's defaults", path)


def write(graph: ov.Model, source: Path, path: Path, options: Mapping[str, str]) -> None:
    """Write a copy of `source` with another graph and run-time options."""
    shutil.copytree(source, path, dirs_exist_ok=True)
    for option, value in options.items():
        graph.set_rt_info(value, ["runtime_options", option])
    # The source file may still be mapped, so it is replaced, not overwritten.
    (path / GRAPH).with_suffix(".bin").unlink()
    import_openvino().save_model(graph, path / GRAPH, compress_to_fp16=False)


if __name__ == "__main__":
    reach.main(
        __doc__ or "",
        reach.Contest(
            engine="openvino",
            full=("float16", FORMAT),
            ours=FORMAT,
            entries=OURS,
            theirs=compressed_by_them,
            variants=with_defaults,
            weight_bytes=lambda path: (path / GRAPH).with_suffix(".bin").stat().st_size,
        ),
    )
