"""The checkpoint layout of AutoGPTQ and GPTQModel, which transformers, vLLM and others load.

The layout does not depend on how the codes were computed: integers of any method fit. A linear of `(out, in)` becomes

* `qweight`, int32 `(in·bits/32, out)`: unsigned codes, packed along the inputs, the first in the lowest bits;
* `qzeros`, int32 `(groups, out·bits/32)`: zero points, packed likewise along the outputs;
* `scales`, float16 `(groups, out)`, and `g_idx`, int32 `(in,)`: the group of each input.

In version 1 (`checkpoint_format: gptq`) a stored zero point is one less than its value, and kernels disagree on whether
`0 − 1` wraps around; `gptq_v2` stores the value itself. Symmetric weights, whose zero point is `2^(bits − 1)`, are
written in version 1, which every loader supports; asymmetric ones in version 2.

*Deviations*: no column order (`desc_act`): inputs are stored in their own order, whatever order a method rounded them
in. Scales per channel, float32 in slmquant, are rounded to float16. Linears that are not packed are named in `dynamic`,
which GPTQModel and vLLM read; transformers by itself loads only models without such linears. Layout as in the code of
Frantar et al., "GPTQ" (ICLR 2023, arXiv 2210.17323), and its successors.
"""

from __future__ import annotations

import re
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


class _Gptq(WordLayout):
    method = "gptq"
    mixes = False

    def misfit(self, weight: QuantizedTensor) -> str | None:
        """Accepts integers of 2, 3, 4 or 8 bits in whole groups, with whole words of codes along both dimensions."""
        if (reason := misfit(weight, packed_layouts.GPTQ_BITS)) is not None:
            return reason
        for size, side in zip(weight.codes.shape, ("outputs", "inputs"), strict=True):
            if size * weight.bits % packed_layouts.WORD:
                multiple = packed_layouts.WORD if weight.bits == 3 else packed_layouts.WORD // weight.bits
                return f"its {size} {side} are not a multiple of {multiple}"
        return None

    def encode(self, weight: QuantizedTensor, scheme: Scheme, input_scale: float | None) -> dict[str, Tensor]:
        """The four tensors of a packed linear."""
        del scheme, input_scale
        codes, zeros, scales = counted(weight)
        if weight.zero_point is None:
            zeros = zeros - 1
        return {
            "qweight": _words(codes, weight.bits).T,
            "qzeros": _words(zeros.T, weight.bits),
            "scales": scales.T,
            "g_idx": torch.arange(codes.shape[1], dtype=torch.int32) // weight.group_size,
        }

    def settings(
        self, scheme: Scheme, packed: Mapping[str, QuantizedTensor], left_out: Sequence[str]
    ) -> dict[str, JsonValue]:
        """The settings that GPTQModel writes."""
        del scheme
        first = next(iter(packed.values()))
        symmetric = first.zero_point is None
        blocks = [name for name in left_out if "." in name]  # loaders skip a head outside the blocks by themselves
        return {
            "quant_method": self.method,
            "bits": first.bits,
            "group_size": -1 if first.grid.group_size == sys.maxsize else first.group_size,
            "sym": symmetric,
            "desc_act": False,
            "lm_head": False,
            "checkpoint_format": "gptq" if symmetric else "gptq_v2",
            "pack_dtype": "int32",
            **({"dynamic": {f"-:^{re.escape(name)}$": {} for name in blocks}} if blocks else {}),
        }

    def decode(self, settings: Mapping[str, JsonValue], parts: Mapping[str, Tensor]) -> Tensor:
        """Compute `scale · (code − zero point)`; groups may be in any order (`g_idx`)."""
        return packed_layouts.gptq(settings, parts)


def _words(codes: Tensor, bits: int) -> Tensor:
    """Pack rows of unsigned codes into rows of int32."""
    return pack(codes, bits).view(torch.int32)


FORMAT = Checkpoint(
    name="gptq",
    title="GPTQ checkpoint",
    summary="integers of 2, 3, 4 or 8 bits in groups, for transformers with GPTQModel, vLLM, ExLlama",
    extra=None,
    layout=_Gptq(),
)
