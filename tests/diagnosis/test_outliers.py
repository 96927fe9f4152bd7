"""Kept channels and tokens are exact, scaled channels leave the function alone, and planted outliers are found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from slmquant import api
from slmquant.core.tokens import TokenCodes
from slmquant.diagnosis.quantizers import (
    KeepingQuantizer,
    UndoingQuantizer,
    channels,
    drawn,
    largest,
    largest_tokens,
    random_tokens,
)
from slmquant.errors import RefusedError
from slmquant.model.computing.activations import ActivationQuantizer
from slmquant.schemes.scheme import ActivationSpec
from slmquant.store.experiments import Divergence, Experiments
from tests.runs.made_up import make_data, make_model

INPUT = torch.randn(1, 9, 20, generator=torch.Generator().manual_seed(0))


def quantizer(bits: int = 4) -> ActivationQuantizer:
    return ActivationQuantizer(ActivationSpec(bits), torch.float32)


def through(quantizer: ActivationQuantizer, x: Tensor = INPUT) -> Tensor:
    codes: TokenCodes = quantizer(x)
    return codes.codes * codes.scale


def test_kept_channels_are_exact_and_do_not_widen_the_steps_of_the_others() -> None:
    x = INPUT.index_fill(-1, torch.tensor([3]), 100.0)
    chosen = torch.arange(20) == 3

    found = through(KeepingQuantizer(quantizer(), channels(chosen)), x)

    torch.testing.assert_close(found[..., 3], x[..., 3])
    torch.testing.assert_close(found[..., ~chosen], through(quantizer(), x[..., ~chosen]))


def test_kept_tokens_are_exact_and_the_others_are_rounded_as_before() -> None:
    x = INPUT.clone()
    x[0, 5, 7] = 50.0

    found = through(KeepingQuantizer(quantizer(), largest_tokens(0.1)), x)

    torch.testing.assert_close(found[0, 5], x[0, 5])
    others = torch.arange(9) != 5
    torch.testing.assert_close(found[0, others], through(quantizer(), x)[0, others])


def test_random_choices_have_the_size_of_the_largest_and_depend_on_the_seed() -> None:
    assert int(random_tokens(0.3, 1)(INPUT).sum()) == int(largest_tokens(0.3)(INPUT).sum()) == 3
    assert int(drawn(20, 0.1, 0).sum()) == int(largest(torch.arange(20.0), 0.1).sum()) == 2
    assert torch.equal(drawn(100, 0.1, 4), drawn(100, 0.1, 4))
    assert not torch.equal(drawn(100, 0.1, 4), drawn(100, 0.1, 5))
    assert largest(torch.tensor([1.0, 9.0, 3.0]), 0.01).tolist() == [False, True, False]


def test_an_undone_scaling_rounds_as_if_nothing_were_scaled() -> None:
    factors = torch.where(torch.arange(20) < 3, 16.0, 1.0)

    found = through(UndoingQuantizer(quantizer(), factors), INPUT * factors)

    torch.testing.assert_close(found, through(quantizer()) * factors)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Experiments:
    folder = tmp_path_factory.mktemp("outliers")
    model, data = make_model(folder), make_data(folder)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SLMQUANT_CACHE", str(folder / "cache"))
        return api.questions(
            str(model), ["W4A4", "W8A4"], ask=["ablation", "doses"], texts=("wikitext2_test",), windows=5, length=24,
            dtype="float32", data_dir=data,
        )  # fmt: skip


def mean(divergence: Divergence) -> float:
    return sum(map(sum, divergence)) / sum(map(len, divergence))


def test_a_format_of_activations_that_two_schemes_share_is_asked_about_once(found: Experiments) -> None:
    assert [one.scheme for one in found.ablations] == [one.scheme for one in found.doses] == ["W16A4"]


def test_every_kind_and_share_is_kept_and_the_largest_recover_more_than_random_ones(found: Experiments) -> None:
    (ablation,) = found.ablations
    assert len(ablation.cells) == 4 * (2 + 2 * 3)
    best = mean(next(one.divergence for one in ablation.cells if one.kept == "channels" and one.share == 0.03))
    random = [mean(one.divergence) for one in ablation.cells if one.kept == "random channels" and one.share == 0.03]
    assert best < sum(random) / len(random)
    assert best < mean(ablation.whole)


def test_scaling_leaves_the_function_alone_and_undoing_it_the_rounding(found: Experiments) -> None:
    (response,) = found.doses
    whole = mean(response.whole)
    assert whole > 1e-4
    for cell in response.cells:
        if cell.arm == "function":
            assert abs(mean(cell.divergence)) < 1e-3 * whole
        if cell.arm == "undone":
            assert mean(cell.divergence) == pytest.approx(whole, rel=1e-3)


def test_larger_outliers_cost_more_at_every_site(found: Experiments) -> None:
    (response,) = found.doses
    sites = {"q_proj k_proj v_proj", "gate_proj up_proj", "v_proj → o_proj", "up_proj → down_proj", "all"}
    assert {cell.site for cell in response.cells} == sites
    worst = {cell.site: mean(cell.divergence) for cell in response.cells if cell.arm == "outliers" and cell.dose == 16}
    assert all(found > 1.02 * mean(response.whole) for found in worst.values())
    assert max(worst, key=worst.__getitem__) == "all"


def test_schemes_without_rounded_activations_have_no_answer(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="leaves activations in 16 bits"):
        api.questions("stories15m", ["W4A16"], ask=["ablation"])
