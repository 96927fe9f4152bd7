from __future__ import annotations

from pathlib import Path

import pytest
import torch

from slmquant.cache.write import About
from slmquant.errors import CacheError
from slmquant.tasks.common.texts.reference import StatesToKeep, pack, read_states, unpack

ABOUT = About("tiny", "states")


def _states(windows: int = 3, seq: int = 4, width: int = 10) -> torch.Tensor:
    return 5 * torch.randn(windows, seq, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("factor", [1e-30, 1e-4, 1.0, 3e4, 1e30])
def test_a_packed_state_is_as_near_as_float16_allows_whatever_its_magnitude(factor: float) -> None:
    states = factor * _states()
    codes, scale = pack(states)
    assert codes.dtype == torch.float16 and codes.abs().max() <= 1
    allowed = (states.abs() * 2**-11).maximum(states.abs().amax(-1, keepdim=True) * 2**-24)
    assert ((unpack(codes, scale) - states).abs() <= allowed).all()


def test_scales_are_powers_of_two_so_that_float16_numbers_come_back_as_they_were() -> None:
    states = _states().half().float()
    assert torch.equal(unpack(*pack(states)), states)
    assert torch.equal(unpack(*pack(torch.zeros(2, 3))), torch.zeros(2, 3))


def test_windows_are_read_back_as_they_were_added(tmp_path: Path) -> None:
    states, path = _states(), tmp_path / "reference" / "states"
    kept = StatesToKeep(3)
    for window in states:
        kept.add(window)
    kept.save(path, ABOUT)
    torch.testing.assert_close(read_states(path, 0, 3), states, rtol=2**-11, atol=1e-5)
    assert torch.equal(read_states(path, 1, 3), read_states(path, 0, 3)[1:])


def test_an_unfinished_reference_is_not_written(tmp_path: Path) -> None:
    kept = StatesToKeep(3)
    kept.add(_states()[0])
    with pytest.raises(ValueError, match="1 of 3 windows"):
        kept.save(tmp_path / "states", ABOUT)
    assert not list(tmp_path.iterdir())


def test_an_absent_entry_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="measure them again"):
        read_states(tmp_path / "none", 0, 1)
