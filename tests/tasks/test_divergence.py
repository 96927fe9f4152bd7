from __future__ import annotations

import pytest
import torch
from torch import Tensor

from slmquant.core.divergence import compare_
from slmquant.store.record import Metric
from slmquant.tasks.common.texts.divergence import (
    SURENESS,
    TokenFigures,
    divergence_metrics,
    figures_of,
    noise_floor_metrics,
    window_figures,
)
from slmquant.tasks.common.texts.token_means import Labels

LABELS = Labels("text:3", "made up", (0, 1, 2))
SPLIT = ("kl_mean", "top1_agreement", "flips_to_wrong", "flips_to_right")


def _figures(noise: float = 1.0, sharp: float = 3.0) -> TokenFigures:
    """Three windows of 40 predictions over 30 words; every other true word is the reference's own choice."""
    draw = torch.Generator().manual_seed(0)
    reference = sharp * torch.randn(120, 30, generator=draw)
    other = reference + noise * torch.randn(120, 30, generator=draw)
    targets = torch.randint(0, 30, (120,), generator=draw)
    targets[::2] = reference.argmax(-1)[::2]
    return TokenFigures(*figures_of(compare_(reference, other, targets)).view(-1, 3, 40))


def _by_name(figures: TokenFigures) -> dict[str, Metric]:
    metrics = divergence_metrics(figures, LABELS)
    assert len({metric.name for metric in metrics}) == len(metrics)
    return {metric.name: metric for metric in metrics}


@pytest.mark.parametrize("name", SPLIT)
@pytest.mark.parametrize("noise", [0.1, 1.0, 10.0])
def test_the_parts_by_sureness_add_up_to_the_whole(name: str, noise: float) -> None:
    found = _by_name(_figures(noise))
    parts = [found[f"{name}_{suffix}"] for suffix in SURENESS]
    assert sum(part.n or 0 for part in parts) == found[name].n == 120
    total = sum((part.n or 0) * part.value for part in parts)
    assert total == pytest.approx(120 * found[name].value, rel=1e-9, abs=1e-12)
    assert all(part.stderr is not None and part.stderr >= 0 for part in parts)


def test_each_token_is_counted_where_its_reference_probability_says() -> None:
    figures = _figures()
    found = _by_name(figures)
    for suffix, low, high in (("unsure", 0, 0.3), ("leaning", 0.3, 0.7), ("sure", 0.7, 1.1)):
        chosen = [
            (float(kl), float(wrong))
            for kl, wrong, sure in zip(
                figures.forward.flatten(), figures.to_wrong.flatten(), figures.confidence.flatten(), strict=True
            )
            if low <= float(sure) < high
        ]
        assert found[f"kl_mean_{suffix}"].n == len(chosen) > 0
        assert found[f"kl_mean_{suffix}"].value == pytest.approx(sum(kl for kl, _ in chosen) / len(chosen))
        assert found[f"flips_to_wrong_{suffix}"].value == pytest.approx(sum(w for _, w in chosen) / len(chosen))


def test_a_part_without_tokens_is_absent() -> None:
    found = _by_name(_figures(sharp=1000.0))  # everywhere sure
    assert found["kl_mean_sure"].n == 120
    assert "kl_mean_unsure" not in found and "flips_to_right_leaning" not in found


def test_the_difference_of_the_flips_is_the_change_of_accuracy() -> None:
    draw = torch.Generator().manual_seed(1)
    reference, other = torch.randn(2, 60, 20, generator=draw)
    targets = torch.randint(0, 20, (60,), generator=draw)
    targets[:30] = reference[:30].argmax(-1)
    change = (other.argmax(-1) == targets).double().mean() - (reference.argmax(-1) == targets).double().mean()
    found = _by_name(TokenFigures(*figures_of(compare_(reference, other, targets)).view(-1, 3, 20)))
    assert found["flips_to_right"].value - found["flips_to_wrong"].value == pytest.approx(change.item(), abs=1e-7)
    assert found["flips_to_right"].value + found["flips_to_wrong"].value <= 1 - found["top1_agreement"].value + 1e-9


def _broken(figures: TokenFigures, where: tuple[int, int], value: float) -> TokenFigures:
    forward = figures.forward.clone()
    forward[where] = value
    return figures._replace(forward=forward)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_positions_that_are_not_finite_are_counted_and_never_averaged(value: float) -> None:
    whole = _figures()
    found = _by_name(_broken(whole, (1, 7), value))
    assert found["kl_nonfinite"].value == 1 and found["kl_nonfinite"].n == 120
    kept = torch.ones(3, 40, dtype=torch.bool)
    kept[1, 7] = False
    expected: dict[str, Tensor] = {"kl_mean": whole.forward, "kl_reverse_mean": whole.reverse}
    expected |= {"top1_agreement": whole.top1, "top5_agreement": whole.top_share, "flips_to_wrong": whole.to_wrong}
    for name, values in expected.items():
        assert found[name].n == 119
        assert found[name].value == pytest.approx(values[kept].double().mean().item())
    assert sum(found[f"kl_mean_{suffix}"].n or 0 for suffix in SURENESS) == 119
    windows = window_figures(_broken(whole, (1, 7), value))
    assert all(figure.isnan().nonzero().tolist() == [[1, 7]] for figure in windows.values())


def test_where_nothing_is_finite_only_that_is_said() -> None:
    figures = _figures()
    nothing = figures._replace(forward=torch.full_like(figures.forward, torch.nan))
    (metric,) = divergence_metrics(nothing, LABELS)
    assert metric.name == "kl_nonfinite" and metric.value == 120
    assert noise_floor_metrics(nothing, LABELS) == []
