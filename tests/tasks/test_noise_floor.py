from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from slmquant.calib.calibration import NoCalibration
from slmquant.model.computing.linear import multiply_in_
from slmquant.model.computing.modes import FLOAT32
from slmquant.model.running.output_head import OutputHead
from slmquant.quantization import quantize_
from slmquant.schemes import parse
from slmquant.store.record import Metric, TaskSpec
from slmquant.tasks import resolve
from slmquant.tasks.common.contract import EvalContext
from slmquant.tasks.common.texts.noise_floor import NOISE_FLOOR_WINDOWS, floor_windows, rounded_hidden
from slmquant.testing.tiny import tiny

SHARED = Path(__file__).resolve().parents[3] / "shared"
Build = Callable[..., EvalContext]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt", "gemma3_text", "gpt_neox"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_roundings_move_the_states_a_little_and_leave_the_model_as_it_was(
    architecture: str, dtype: torch.dtype
) -> None:
    model = tiny(architecture).float()
    multiply_in_(model, dtype)
    head, ids = OutputHead(model), torch.arange(12)[None]
    before = head.hidden(ids)
    rounded = rounded_hidden(model, head, ids)
    assert torch.equal(rounded, rounded.bfloat16().float())
    assert not torch.equal(rounded, before.bfloat16().float()), "the blocks' outputs are rounded too"
    assert (rounded - before).norm() < 0.03 * before.norm()
    assert torch.equal(head.hidden(ids), before)


def test_the_floor_is_measured_with_the_reference_on_some_of_its_windows(context: Build) -> None:
    spec = TaskSpec(name="wikitext2", limit=5)
    metrics = {m.name: m for m in resolve(spec).run(context(0, is_reference=True), spec).metrics}
    floor = metrics["kl_noise_floor"]
    assert floor.value > 0 and floor.n == NOISE_FLOOR_WINDOWS * 63 and floor.stderr is not None
    assert 0.8 < metrics["top1_agreement_noise_floor"].value <= 1
    assert 0.8 < metrics["top5_agreement_noise_floor"].value <= 1


@pytest.mark.parametrize("windows", [1, 2, 3, 4, 5, 7, 148])
def test_the_floor_takes_windows_from_all_over_the_sample(windows: int) -> None:
    taken = floor_windows(windows)
    assert len(set(taken)) == min(NOISE_FLOOR_WINDOWS, windows) and max(taken) < windows
    assert windows < 8 or (min(taken) < windows / 4 and max(taken) > 3 * windows / 4)


@pytest.fixture
def stories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Metric]]:
    """Scheme → the metrics of stories260k on a text of its kind, the reference measured first."""
    from slmquant.model.sources.load import load
    from slmquant.model.sources.pull import pull

    source = SHARED / "models" / "stories260k"
    if not source.is_dir():
        pytest.skip("models/stories260k is not beside the repository")
    monkeypatch.setenv("SLMQUANT_CACHE", str(tmp_path / "cache"))
    pull("stories260k", local=source)
    text = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "
    (tmp_path / "data" / "text").mkdir(parents=True)
    (tmp_path / "data" / "text" / "wikitext2_test.txt.gz").write_bytes(gzip.compress((text * 80).encode()))

    def measure(scheme: str) -> dict[str, Metric]:
        loaded = load("stories260k")
        is_reference = scheme == "W16A16"
        method = "none" if is_reference else "rtn"
        quantized = quantize_(loaded.model, method, parse(scheme), NoCalibration(), dtype=torch.float32)
        spec = TaskSpec(name="wikitext2", limit=2)
        context = EvalContext(
            model=quantized.model.eval(),
            mode=FLOAT32,
            tokenizer=loaded.tokenizer,
            model_sha256=loaded.sha256,
            cache_dir=tmp_path / "cache",
            data_dir=tmp_path / "data",
            is_reference=is_reference,
        )
        return {metric.name: metric for metric in resolve(spec).run(context, spec).metrics}

    return measure


def test_on_a_trained_model_the_floor_lies_far_below_what_four_bits_do(
    stories: Callable[[str], dict[str, Metric]],
) -> None:
    floor = stories("W16A16")["kl_noise_floor"].value
    four, eight = (stories(scheme)["kl_mean"].value for scheme in ("W4A16g64", "W8A16"))
    assert 0 < floor < eight < four
    assert floor < four / 100
