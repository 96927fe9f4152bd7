from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import replace
from math import exp
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from slmquant.analysis.serial import series_mean
from slmquant.calib.corpora import load_corpus
from slmquant.calib.windows import spread_windows, text_tokens
from slmquant.errors import CacheError, DataError, NumericalError
from slmquant.model.running.output_head import OutputHead
from slmquant.store.record import Metric, TaskSpec
from slmquant.tasks import has_reference, reference_path, resolve
from slmquant.tasks.common.contract import EvalContext, TaskResult
from slmquant.tasks.common.texts.reference import read_states
from slmquant.tasks.common.texts.token_means import clustered_mean, clustered_quantile
from tests.damage import damage
from tests.narrowed import present
from tests.tasks.made_up import with_bos

SPEC = TaskSpec(name="wikitext2", limit=5)
Build = Callable[..., EvalContext]


def _run(context: EvalContext, spec: TaskSpec = SPEC) -> TaskResult:
    return resolve(spec).run(context, spec)


def _values(result: TaskResult) -> dict[str, float]:
    return {metric.name: metric.value for metric in result.metrics}


def _positions(available: int, wanted: int = 5) -> list[int]:
    positions = spread_windows("wikitext2_test", available, wanted)
    assert len(positions) == wanted
    return list(positions)


def _log_probs(context: EvalContext, data: Path) -> tuple[Tensor, Tensor]:
    """Float64 log-probabilities and targets of every prediction of five windows of the text, the plain way."""
    tokens = text_tokens(context.tokenizer, load_corpus("wikitext2_test", data).text)
    ids = torch.stack([tokens[64 * at : 64 * (at + 1)] for at in _positions(len(tokens) // 64)])
    with torch.no_grad():
        logits = context.model(input_ids=ids).logits[:, :-1].double()
    return logits.log_softmax(-1).flatten(0, 1), ids[:, 1:].flatten()


def test_perplexity_is_exp_of_the_mean_loss_over_windows(context: Build, data: Path) -> None:
    reference = context(is_reference=True)
    log_probs, targets = _log_probs(reference, data)
    loss = -log_probs.gather(-1, targets[:, None]).squeeze(-1)
    metric, *floor = _run(reference).metrics
    assert all("noise_floor" in metric.name for metric in floor)
    assert metric.name == "perplexity" and metric.task == "wikitext2:5" and metric.n == 5 * 63
    assert metric.value == pytest.approx(loss.mean().exp().item(), rel=1e-5)
    window_means = loss.view(5, 63).mean(1)
    tokens = text_tokens(reference.tokenizer, load_corpus("wikitext2_test", data).text)
    expected = series_mean(window_means.tolist(), None, _positions(len(tokens) // 64))
    assert metric.stderr == pytest.approx(metric.value * present(expected.stderr), rel=1e-4)
    assert (metric.freedom, metric.clusters) == (expected.freedom, 5)
    assert "stride 64" in str(metric.protocol) and "no BOS" in str(metric.protocol)
    assert f"5 of {len(tokens) // 64} windows, evenly spread" in str(metric.protocol)


def test_divergence_is_that_of_the_full_logits(context: Build, data: Path) -> None:
    reference, other = context(0, is_reference=True), context(1)
    _run(reference)
    other.reference_head = reference.model.get_output_embeddings().weight
    p, _ = _log_probs(reference, data)
    q, _ = _log_probs(other, data)
    forward = (p.exp() * (p - q)).sum(-1)
    found = _values(_run(other))
    assert found["kl_mean"] == pytest.approx(forward.mean().item(), rel=1e-4)
    # The reference is kept in float16, which moves single tokens a little more than the mean.
    assert found["kl_median"] == pytest.approx(forward.quantile(0.5).item(), rel=1e-3)
    assert found["kl_p99"] == pytest.approx(forward.quantile(0.99).item(), rel=1e-3)
    assert found["kl_reverse_mean"] == pytest.approx((q.exp() * (q - p)).sum(-1).mean().item(), rel=1e-4)
    assert found["top1_agreement"] == pytest.approx((p.argmax(-1) == q.argmax(-1)).double().mean().item())
    assert "kl_nonfinite" not in found


def test_the_full_precision_model_does_not_diverge_from_itself(context: Build) -> None:
    _run(context(0, is_reference=True))
    found = _values(_run(context(0)))
    assert found["kl_mean"] == pytest.approx(0, abs=1e-6)  # float16 states
    assert found["top1_agreement"] == 1 and found["flips_to_wrong"] == found["flips_to_right"] == 0


def test_a_changed_head_is_compared_with_the_reference_head(context: Build, data: Path) -> None:
    reference, other = context(0, is_reference=True), context(0)
    _run(reference)
    head = other.model.get_output_embeddings()
    original = head.weight.detach().clone()
    with torch.no_grad():
        head.weight.mul_(1.5)
    p, _ = _log_probs(reference, data)
    q, _ = _log_probs(other, data)
    other.reference_head = original
    expected = (p.exp() * (p - q)).sum(-1).mean().item()
    assert _values(_run(other))["kl_mean"] == pytest.approx(expected, rel=1e-4)


def test_a_quantized_model_needs_the_reference_first(context: Build) -> None:
    assert not has_reference(context(1).reference_key, SPEC)
    with pytest.raises(DataError, match="measure the unquantized model on wikitext2:5 first"):
        _run(context(1))
    _run(context(0, is_reference=True))
    assert has_reference(context(1).reference_key, SPEC)
    assert not has_reference(context(1).reference_key, TaskSpec(name="wikitext2", limit=4))
    assert reference_path(context(1).reference_key, TaskSpec(name="arc_easy")) is None


def test_overflowing_weights_name_the_window(context: Build) -> None:
    broken = context(0, is_reference=True)
    with torch.no_grad():
        broken.model.get_output_embeddings().weight[3, 0] = float("nan")
    with pytest.raises(NumericalError, match=r"window \d+ of wikitext2 is not finite at 63 of 63"):
        _run(broken)
    assert not has_reference(broken.reference_key, SPEC)


@pytest.mark.parametrize(("at", "why"), [(-5000, "differs from its checksum"), (None, "instead of")])
def test_a_truncated_reference_and_a_flipped_bit_are_noticed_and_removed(
    context: Build, caplog: pytest.LogCaptureFixture, at: int | None, why: str
) -> None:
    _run(context(0, is_reference=True))
    entry = reference_path(context(1).reference_key, SPEC)
    assert entry is not None
    damage(entry / "states.safetensors", at)

    with pytest.raises(CacheError, match="measure the unquantized model on wikitext2:5 first"):
        _run(context(1))
    assert why in caplog.text and not entry.exists()
    _run(context(0, is_reference=True))
    assert _run(context(1)).metrics


def test_damage_while_a_reference_is_read_is_noticed_window_by_window(context: Build) -> None:
    _run(context(0, is_reference=True))
    entry = reference_path(context(1).reference_key, SPEC)
    assert entry is not None
    damage(entry / "states.safetensors", -5000)

    with pytest.raises(CacheError, match=r"damaged in window \d"):
        read_states(entry, 0, 5)
    assert not entry.exists()


def test_each_window_is_an_item_whose_means_make_up_the_whole(context: Build) -> None:
    reference = _run(context(0, is_reference=True))
    available = int(str(_perplexity(reference).protocol).split(" of ")[-1].split()[0])
    assert [item.item for item in reference.items] == [str(at) for at in _positions(available)]
    assert all(set(item.values) == {"nll_mean"} for item in reference.items)
    other = _run(context(1))
    found = _values(other)
    for name in ("kl_mean", "kl_reverse_mean", "top1_agreement", "top5_agreement", "flips_to_wrong", "flips_to_right"):
        assert fmean(item.values[name] for item in other.items) == pytest.approx(found[name], rel=1e-6)
    assert exp(fmean(item.values["nll_mean"] for item in other.items)) == pytest.approx(found["perplexity"], rel=1e-6)


def test_a_limit_takes_windows_of_the_whole_text_and_all_are_the_text(context: Build) -> None:
    whole = _run(context(0, is_reference=True), TaskSpec(name="wikitext2"))
    assert "all " in str(_perplexity(whole).protocol)
    count = len(whole.items)
    assert [item.item for item in whole.items] == [str(at) for at in range(count)]
    losses = {item.item: item.values["nll_mean"] for item in whole.items}
    some = _run(context(0, is_reference=True), TaskSpec(name="wikitext2", limit=4))
    places = [int(item.item) for item in some.items]
    assert [-(-4 * place // count) for place in places] in ([0, 1, 2, 3], [1, 2, 3, 4]), "one of every quarter"
    for item in some.items:
        assert item.values["nll_mean"] == pytest.approx(losses[item.item], rel=1e-6)
    more = _run(context(0, is_reference=True), TaskSpec(name="wikitext2", limit=count + 7))
    assert _perplexity(more).value == pytest.approx(_perplexity(whole).value, rel=1e-6)


def test_one_window_has_no_error_and_says_so(context: Build) -> None:
    metric = _perplexity(_run(context(0, is_reference=True), TaskSpec(name="wikitext2", limit=1)))
    assert (metric.stderr, metric.clusters, metric.freedom) == (None, None, None)
    assert "one window has no standard error" in str(metric.protocol)


def _perplexity(result: TaskResult) -> Metric:
    return next(metric for metric in result.metrics if metric.name == "perplexity")


def test_a_text_shorter_than_a_window_is_refused(context: Build, data: Path) -> None:
    (data / "text" / "wikitext2_test.txt.gz").write_bytes(gzip.compress(b" = A = \n"))
    with pytest.raises(DataError, match="less than one window of 64"):
        _run(context(0, is_reference=True))


def test_windows_start_with_bos_where_the_model_needs_it(context: Build) -> None:
    plain = context(0, is_reference=True)
    gemma = replace(plain, tokenizer=type(plain.tokenizer)(tokenizer_object=_copy(plain), bos_token="<s>"))
    gemma.tokenizer.add_special_tokens({"additional_special_tokens": ["<start_of_turn>"]})
    metric, *_ = _run(gemma).metrics
    assert "BOS before every window" in str(metric.protocol) and "stride 63" in str(metric.protocol)
    assert metric.n == 5 * 63


def test_a_tokenizer_that_adds_bos_itself_gives_no_window_two(context: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gemma's tokenizer does: the loss of BOS after BOS would be counted in window 0."""
    plain = context(0, is_reference=True)
    gemma = replace(plain, tokenizer=with_bos(backend(plain), every_window=True))
    bos = gemma.tokenizer.bos_token_id
    assert gemma.tokenizer("x").input_ids[0] == bos, "the tokenizer puts BOS before a text"
    read: list[Tensor] = []
    ask = OutputHead.hidden

    def reading(self: OutputHead, ids: Tensor, *more: Any) -> Tensor:
        read.append(ids)
        return ask(self, ids, *more)

    monkeypatch.setattr(OutputHead, "hidden", reading)
    _run(gemma, TaskSpec(name="wikitext2"))
    windows = torch.cat(read)
    assert (windows[:, 0] == bos).all() and not (windows[:, 1:] == bos).any()


def test_a_tokenizer_that_adds_bos_to_a_text_does_so_once_for_other_models(context: Build) -> None:
    plain = context(0, is_reference=True)
    llama = replace(plain, tokenizer=with_bos(backend(plain)))
    assert "BOS at the start of the text" in str(_perplexity(_run(llama)).protocol)


def backend(context: EvalContext) -> PreTrainedTokenizerFast:
    """The tokenizer of a context, one of the `tokenizers` library."""
    assert isinstance(context.tokenizer, PreTrainedTokenizerFast)
    return context.tokenizer


def _copy(context: EvalContext) -> object:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(context.tokenizer.backend_tokenizer.to_str())


def test_the_standard_error_of_windows_far_apart_is_that_of_their_means() -> None:
    values, places = torch.tensor([[1.0, 3.0], [5.0, 5.0], [0.0, 4.0]]), (0, 100, 200)
    found = clustered_mean(values, places)
    assert found.mean == pytest.approx(3.0)
    assert found.stderr == pytest.approx(values.mean(1).std().item() / 3**0.5)
    assert clustered_mean(values[:1]).mean == pytest.approx(2.0) and clustered_mean(values[:1]).stderr is None
    assert clustered_mean(torch.tensor([[1.0, torch.nan], [4.0, 4.0]])).mean == pytest.approx(3.0)


def test_the_error_of_a_quantile_is_its_spread_over_other_texts() -> None:
    """Windows that differ in level: the spread of the median over 400 texts is about what each text says it is."""
    drawn = torch.Generator().manual_seed(0)
    found = []
    for _ in range(400):
        level = torch.randn(40, 1, generator=drawn)
        values = (level + torch.randn(40, 50, generator=drawn)).exp()
        quantile = clustered_quantile(values, 0.5, range(0, 4000, 100))
        found.append((quantile.mean, quantile.stderr))
    medians, errors = torch.tensor(found, dtype=torch.double).T

    assert float(errors.mean()) == pytest.approx(float(medians.std()), rel=0.15)


def test_a_quantile_leaves_out_what_is_absent_and_one_window_has_no_error() -> None:
    values = torch.tensor([[1.0, torch.nan, 2.0], [3.0, 4.0, torch.nan]])

    assert clustered_quantile(values, 0.5).mean == pytest.approx(2.5)
    alone = clustered_quantile(values[:1], 0.5)
    assert alone.mean == pytest.approx(1.5) and alone.stderr is None
