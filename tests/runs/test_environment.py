"""How many threads are used is what the user says, where that is fewer than the cores."""

from __future__ import annotations

import pytest

from slmquant.machine import environment


@pytest.mark.parametrize(
    ("said", "threads"),
    [(None, 4), ("1", 1), ("3", 3), ("9", 4), ("2,1", 2), ("", 4), ("0", 4), ("-1", 4), ("all", 4)],
)
def test_omp_num_threads_is_heeded(said: str | None, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "allowed_cores", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)

    found = environment.environment.__wrapped__()

    assert environment.usable_cores() == found.threads == threads and found.cores == 4
