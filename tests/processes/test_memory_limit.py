"""Where a control group with a memory limit is made, what is written into it, and when there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from slmquant.machine.memory_limit import killed_in, make_group


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    """A tree as systemd makes it for a user: the shell's own group holds processes, so only that above it gives memory
    to its groups."""
    mount = tmp_path / "cgroup"
    (mount / "user" / "shell").mkdir(parents=True)
    for group, controllers in (("", "cpu memory"), ("user", "memory pids"), ("user/shell", "")):
        (mount / group / "cgroup.subtree_control").write_text(controllers + "\n")
    (tmp_path / "own").write_text("1:name=systemd:/\n0::/user/shell\n")
    return mount


def test_the_group_is_made_in_the_nearest_one_that_gives_memory(mount: Path) -> None:
    group = make_group(4711, 6_000_000, mount, mount.parent / "own")

    assert group is not None and group.parent == mount / "user"
    assert (group / "memory.max").read_text() == "6000000"
    assert (group / "cgroup.procs").read_text() == "4711"
    assert not (group / "memory.swap.max").exists()  # the kernel does not have it


def test_without_control_groups_there_is_none(mount: Path, tmp_path: Path) -> None:
    (tmp_path / "first version").write_text("4:memory:/somewhere\n")
    (tmp_path / "no controllers").write_text("0::/absent\n")
    for own in ("first version", "no controllers", "absent"):
        assert make_group(1, 1, mount, tmp_path / own) is None


def test_a_group_counts_what_was_killed_in_it(tmp_path: Path) -> None:
    assert killed_in(tmp_path) == 0
    (tmp_path / "memory.events").write_text("low 0\nmax 12\noom 1\noom_kill 3\noom_group_kill 1\n")
    assert killed_in(tmp_path) == 3
