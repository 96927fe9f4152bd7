"""A short campaign of faults, one of each kind; `make faults` runs the long one."""

from __future__ import annotations

import sys

import pytest

from tests.faults.campaign import Undisturbed, disturb, undisturbed
from tests.faults.kinds import KINDS

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(sys.platform != "linux", reason="limits of other processes are Linux's"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return undisturbed(tmp_path_factory.mktemp("undisturbed"), fresh=False)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sweep_that_was_disturbed_ends_as_if_it_was_not(kind: str, whole: Undisturbed) -> None:
    result = disturb(kind, 0, 0, whole)

    assert result.wrong is None, f"{result.what}: {result.wrong}"
