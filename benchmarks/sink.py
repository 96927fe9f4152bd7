"""Errors of several roundings in the keys of the first token, the attention sink, and of all other tokens.

Prints, for `k_proj` of every fifth block, the relative squared error of the output at the first token and at the rest
of a held-out window. GPTQ minimises the second number of each pair; the model depends on the first.

    python benchmarks/sink.py smollm2-135m-instruct --scheme W4A16g64
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

import torch

from slmquant.calib.capture import capture
from slmquant.calib.corpora import load_corpus
from slmquant.calib.windows import calibration_windows, text_tokens
from slmquant.methods.common.parts import Rounding
from slmquant.methods.gptq import Gptq
from slmquant.methods.gptq_sink import SINK_SHARE
from slmquant.methods.rtn import Nearest
from slmquant.model.computing.grids import grid_of
from slmquant.model.discovery.relations import discover
from slmquant.model.linears import weight_at
from slmquant.model.running.output_head import OutputHead
from slmquant.model.sources.load import load
from slmquant.schemes import parse

ROUNDINGS: Mapping[str, Rounding] = {
    "RTN": Nearest(),
    "GPTQ, natural order": Gptq(act_order=False),
    "GPTQ": Gptq(),
    "uniform, share": Gptq(sink_share=SINK_SHARE),
    "GPTQ-energy": Gptq(weighting="energy"),
    "GPTQ-sink": Gptq(weighting="energy", sink_share=SINK_SHARE),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("--scheme", default="W4A16g64")
    parser.add_argument("--samples", type=int, default=32)
    arguments = parser.parse_args()
    loaded = load(arguments.model)
    relations = discover(loaded.model)
    groups = [g for g in relations.groups if any("k_proj" in name for name in g.linears)][::5]
    windows = calibration_windows(loaded.tokenizer, load_corpus("wikitext2_train"), arguments.samples, 512, 0)
    statistics = capture(loaded.model, relations, windows, {"hessian", "hessian_energy"}).statistics
    inputs: dict[str, torch.Tensor] = {}
    for group in groups:
        module, name = loaded.model.get_submodule(group.linears[0]), group.linears[0]
        module.register_forward_pre_hook(lambda _module, args, name=name: inputs.__setitem__(name, args[0][0]))
    OutputHead(loaded.model).hidden(text_tokens(loaded.tokenizer, load_corpus("wikitext2_test").text)[None, :1024])
    weights = parse(arguments.scheme).weights
    if weights is None:
        parser.error(f"{arguments.scheme} quantizes no weights")
    print(f"{arguments.model}, {arguments.scheme}: relative squared error of k_proj's output, first token / all others")
    print(f"{'':36}" + "".join(f"{name:>24}" for name in ROUNDINGS))
    for group in groups:
        name = next(name for name in group.linears if "k_proj" in name)
        W, x = weight_at(loaded.model, name).detach(), inputs[group.linears[0]]
        cells = []
        for rounding in ROUNDINGS.values():
            rounded = rounding.round(W, grid_of(weights), statistics[group.linears[0]]).dequantize()
            error, size = (((matrix @ x.T) ** 2).sum(dim=0) for matrix in (W - rounded, W))
            cells.append(f"{error[0] / size[0]:.1%} / {error[1:].sum() / size[1:].sum():.1%}")
        print(f"{name:36}" + "".join(f"{cell:>24}" for cell in cells))


if __name__ == "__main__":
    with torch.no_grad():
        main()
