"""The checkpoint layout of AutoAWQ ("gemm"), which transformers and vLLM load.

The layout does not depend on how the codes were computed: 4-bit integers of any method fit. A linear of `(out, in)`
becomes

* `qweight`, int32 `(in, out/8)`: unsigned codes, eight outputs per word, interleaved: from the lowest bits upwards, a
  word holds outputs 0, 2, 4, 6, 1, 3, 5, 7 of its eight, because the authors' kernel unpacks two at a time;
* `qzeros`, int32 `(groups, out/8)`: zero points, packed likewise;
* `scales`, float16 `(groups, out)`.

Symmetric weights are written with zero points of 8. Layout as in the code of Lin et al., "AWQ" (MLSys 2024,
arXiv 2306.00978).

*Deviations*: scales per channel, float32 in slmquant, are rounded to float16.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import torch
from pydantic import JsonValue
from torch import Tensor

from slmquant.core.affine import QuantizedTensor
from slmquant.core.pack import pack
from slmquant.formats.common.checkpoint_folder import Checkpoint
from slmquant.formats.common.integer_words import WordLayout, counted, misfit
from slmquant.model.sources import packed_layouts
from slmquant.schemes import Scheme

_BITS = 4


class _Awq(WordLayout):
    method = "awq"
    mixes = False

    def misfit(self, weight: QuantizedTensor) -> str | None:
        """Accepts 4-bit integers in whole groups, with whole words of outputs."""
        outputs = weight.codes.shape[0]
        if outputs % len(packed_layouts.AWQ_ORDER):
            return f"its {outputs} outputs are not a multiple of {len(packed_layouts.AWQ_ORDER)}"
        return misfit(weight, (_BITS,))

    def encode(self, weight: QuantizedTensor, scheme: Scheme, input_scale: float | None) -> dict[str, Tensor]:
        """The three tensors of a packed linear."""
        del scheme, input_scale
        codes, zeros, scales = counted(weight)
        return {"qweight": _words(codes.T), "qzeros": _words(zeros.T), "scales": scales.T}

    def settings(
        self, scheme: Scheme, packed: Mapping[str, QuantizedTensor], left_out: Sequence[str]
    ) -> dict[str, JsonValue]:
        """The settings that AutoAWQ writes."""
        del scheme
        first = next(iter(packed.values()))
        return {
            "quant_method": self.method,
            "bits": _BITS,
            "group_size": -1 if first.grid.group_size == sys.maxsize else first.group_size,
            "zero_point": True,
            "version": "gemm",
            "modules_to_not_convert": list(left_out),
        }

    def decode(self, settings: Mapping[str, JsonValue], parts: Mapping[str, Tensor]) -> Tensor:
        """Compute `scale · (code − zero point)`."""
        return packed_layouts.awq(settings, parts)


def _words(codes: Tensor) -> Tensor:
    """Pack rows of unsigned codes into rows of interleaved int32."""
    return pack(
        codes.unflatten(1, (-1, len(packed_layouts.AWQ_ORDER)))[..., packed_layouts.AWQ_ORDER].flatten(1), _BITS
    ).view(torch.int32)


FORMAT = Checkpoint(
    name="awq",
    title="AWQ checkpoint",
    summary="4-bit integers in groups, for transformers with GPTQModel, and vLLM",
    extra=None,
    layout=_Awq(),
)
