"""The checkpoint layout of AutoGPTQ and GPTQModel, which transformers, vLLM and others load.

It says nothing of how codes were found: any method's integers fit. A linear of `(out, in)` becomes

* `qweight`, int32 `(in·bits/32, out)`: codes from 0, along the inputs, the first in the lowest bits;
* `qzeros`, int32 `(groups, out·bits/32)`: zero points in the same way, along the outputs;
* `scales`, float16 `(groups, out)`, and `g_idx`, int32 `(in,)`: the group of each input.

In its first version (`checkpoint_format: gptq`) a stored zero point is one less than meant, and kernels disagree on
whether `0 − 1` wraps around; `gptq_v2` stores what is meant. Symmetric weights, whose zero point is `2^(bits − 1)`, are
written in the first, which every loader knows; asymmetric ones in the second.

*Deviations*: no column order (`desc_act`): inputs lie in their own order, whatever order a method rounded them in.
Scales per channel, float32 with us, are rounded to float16. Linears that are left out are named in `dynamic`, as
GPTQModel and vLLM read it; transformers by itself loads only models that have none. Layout as in the code of
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

    def misfit(self, weight: QuantizedTensor) -> str | None:
        """Integers of 2, 3, 4 or 8 bits in whole groups, and whole words of codes along both sides."""
        if (reason := misfit(weight, packed_layouts.GPTQ_BITS)) is not None:
            return reason
        for size, side in zip(weight.codes.shape, ("outputs", "inputs"), strict=True):
            if size * weight.bits % packed_layouts.WORD:
                multiple = packed_layouts.WORD if weight.bits == 3 else packed_layouts.WORD // weight.bits
                return f"its {size} {side} are no multiple of {multiple}"
        return None

    def encode(self, weight: QuantizedTensor, scheme: Scheme, input_scale: float | None) -> dict[str, Tensor]:
        """The four tensors."""
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

    def settings(self, scheme: Scheme, packed: QuantizedTensor, left_out: Sequence[str]) -> dict[str, JsonValue]:
        """As GPTQModel writes them."""
        del scheme
        symmetric = packed.zero_point is None
        blocks = [name for name in left_out if "." in name]  # a head outside the blocks is left out by itself
        return {
            "quant_method": self.method,
            "bits": packed.bits,
            "group_size": -1 if packed.grid.group_size == sys.maxsize else packed.group_size,
            "sym": symmetric,
            "desc_act": False,
            "lm_head": False,
            "checkpoint_format": "gptq" if symmetric else "gptq_v2",
            "pack_dtype": "int32",
            **({"dynamic": {f"-:^{re.escape(name)}$": {} for name in blocks}} if blocks else {}),
        }

    def decode(self, settings: Mapping[str, JsonValue], parts: Mapping[str, Tensor]) -> Tensor:
        """`scale · (code − zero point)`, in whatever order `g_idx` has the groups."""
        return packed_layouts.gptq(settings, parts)


def _words(codes: Tensor, bits: int) -> Tensor:
    """Rows of codes from 0 as rows of int32."""
    return pack(codes, bits).view(torch.int32)


FORMAT = Checkpoint(
    name="gptq",
    title="GPTQ checkpoint",
    summary="integers of 2, 3, 4 or 8 bits in groups, for transformers with GPTQModel, vLLM, ExLlama",
    extra=None,
    layout=_Gptq(),
)
