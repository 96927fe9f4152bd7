"""On linears of a trained model, feedback from vector to vector costs less than the nearest vectors."""

import os
from pathlib import Path

import pytest
import torch

from slmquant.calib.capture import capture
from slmquant.core.affine import QuantizedTensor
from slmquant.core.codebooks import CODEBOOKS
from slmquant.core.kquant import search
from slmquant.methods.gptq_mse import METHOD
from slmquant.model.computing.grids import grid_of
from slmquant.model.discovery.relations import discover
from slmquant.model.linears import weight_at
from slmquant.model.sources.read_llama2c import read_llama2c
from slmquant.schemes import parse

TEXT = """Once upon a time, there was a little girl named Lily. She loved to play outside in the park with her dog Max.
One day, they saw a big, red ball. Max wanted to play with the ball, but it was too high in the tree. Lily said, "Don't
worry, Max! I will ask my mom for help." Her mom came with a long stick and hit the ball. The ball fell down, and Max
was very happy. They played all day. At night, Lily told her mom that the best thing about the day was to share it."""


@pytest.mark.real_model
@pytest.mark.parametrize("name", CODEBOOKS)
def test_feedback_lowers_the_error_of_trained_linears(name: str) -> None:
    folder = Path(os.environ.get("SLMQUANT_DATA", "../shared/data")).parent / "models" / "stories260k"
    if not folder.is_dir():
        pytest.skip("models/stories260k is not beside the data folder")
    model, tokenizer = read_llama2c(folder / "stories260K.bin", folder / "tok512.bin")
    relations, windows = discover(model), torch.tensor([tokenizer(TEXT).input_ids])
    statistics = capture(model, relations, windows, {"hessian", "hessian_energy"}).statistics
    spec = parse(name).weights
    assert spec is not None and METHOD.rounding is not None
    grid = grid_of(spec)
    for group in relations.groups:
        inputs = statistics[group.linears[0]]
        if inputs.rms.numel() % 8:  # the last linears, with rows of 172
            continue
        W, H = weight_at(model, group.linears[0]).detach().float(), inputs.weighted("energy")

        def loss(rounded: QuantizedTensor, W: torch.Tensor = W, H: torch.Tensor = H) -> float:
            error = rounded.dequantize() - W
            return float((error @ H * error).sum())

        nearest, searched = grid.quantize(W), grid.quantize(W, search(W, inputs.rms.square()[None], grid))
        found = loss(METHOD.rounding.round(W, grid, inputs))
        assert found < 0.8 * loss(searched) < 0.8 * loss(nearest), group.linears[0]
