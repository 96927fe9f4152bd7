"""The environment that a cell runs in: hardware, libraries, revision."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch

from slmquant.store.record import Environment

_PACKAGES = ("slmquant", "torch", "transformers", "tokenizers", "safetensors", "lm_eval", "datasets", "numpy")
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm")


@cache
def environment() -> Environment:
    """This machine, its libraries, and the revision of slmquant."""
    cpu, flags = _cpu()
    return Environment(
        platform=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=cpu,
        cpu_flags=tuple(flag for flag in _FLAGS if flag in flags),
        cores=allowed_cores(),
        threads=usable_cores(),
        memory_bytes=psutil.virtual_memory().total,
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        python=platform.python_version(),
        versions={name: found for name in _PACKAGES if (found := _version(name)) is not None},
        git_revision=_git_revision(),
    )


def allowed_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_cores() -> int:
    """Number of threads for cells and engines: `allowed_cores`, or fewer if OMP_NUM_THREADS says so."""
    requested = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(allowed_cores(), int(requested)) if requested.isdecimal() and int(requested) > 0 else allowed_cores()


def _cpu() -> tuple[str, frozenset[str]]:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor() or "unknown", frozenset()
    fields: dict[str, str] = {}
    for line in cpuinfo.read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = fields.get("flags", fields.get("Features", ""))
    return fields.get("model name", platform.processor() or "unknown"), frozenset(flags.split())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    here = Path(__file__).resolve().parent
    try:
        revision = _git(here, "rev-parse", "--short=12", "HEAD")
        inside = _git(here, "ls-files", "--error-unmatch", Path(__file__).name)
        dirty = _git(here, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return (revision + ("+dirty" if dirty else "")) if inside else None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, check=True, capture_output=True, encoding="utf-8", errors="replace"
    )
    return done.stdout.strip()
