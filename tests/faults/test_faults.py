"""A short campaign of faults; `make faults` runs the long one."""

from __future__ import annotations

import sys

import pytest

from tests.faults.campaign import campaign
from tests.faults.kinds import KINDS


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of other processes are Linux's")
def test_whatever_disturbs_a_sweep_it_ends_as_if_undisturbed() -> None:
    results = campaign(len(KINDS), 0, lambda result: None)

    assert [result.kind for result in results] == list(KINDS)
    assert [(result.kind, result.what, result.wrong) for result in results if result.wrong is not None] == []
