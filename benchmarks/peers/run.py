"""Quantizes with slmquant and then with a peer, on the same machine, with the same settings.

    python benchmarks/peers/run.py FOLDER hqq --venvs ~/peers --scheme W4A16g64-asym
    python benchmarks/peers/run.py FOLDER llm_compressor --set algorithm=awq --venvs ~/peers --scheme W4A16g64-asym

FOLDER was written by export.py; compare.py then prints quality and time of both.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from setup import PEERS, python_of

from slmquant.schemes import PerGroup, parse

COUNTERPARTS = {"hqq": "hqq", "auto_round": "autoround", "llm_compressor": "gptq", "torchao": "rtn"}
"""Peer → our corresponding method, unless `algorithm=awq` or the like names another."""
HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--venvs", type=Path, required=True, help="folder of environments made by setup.py")
    parser.add_argument("--scheme", default="W4A16g64-asym", help="integer weights, activations in 16 bits")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--method", help="our method, if not the corresponding one; 'none' to skip it")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="settings of the peer; see its file"
    )
    parser.add_argument("--ours", action="append", default=[], metavar="KEY=VALUE", help="settings of slmquant")
    given = parser.parse_args()
    settings = dict(setting.split("=", 1) for setting in given.set)
    algorithm = settings.get("algorithm", "")
    method = given.method or {"awq": "awq", "affine": "rtn"}.get(algorithm, COUNTERPARTS[given.peer])
    numbers = [*numbers_of(given.scheme), "--dtype", given.dtype]
    samples = [setting for setting in given.set if setting.startswith("samples=")]
    if method != "none":
        ours = [f"method={method}", *samples, *given.ours]
        quantize(Path(sys.executable), "slmquant", given.folder, f"slmquant-{method}-{given.scheme}", numbers, ours)
    name = "-".join([given.peer, *([algorithm] if algorithm else []), given.scheme])
    quantize(python_of(given.venvs, given.peer), given.peer, given.folder, name, numbers, given.set)


def numbers_of(name: str) -> list[str]:
    """A scheme as command-line arguments of the `quantize_*.py`."""
    weights = parse(name).weights
    if weights is None:
        raise SystemExit(f"{name} quantizes no weights")
    symmetric = ["--symmetric"] if weights.format.symmetric else []
    grouped = weights.granularity
    return ["--bits", str(weights.format.bits), *symmetric] + (
        ["--group-size", str(grouped.size)] if isinstance(grouped, PerGroup) else []
    )


def quantize(python: Path, peer: str, folder: Path, name: str, numbers: list[str], settings: list[str]) -> None:
    """Run `quantize_PEER.py` in the peer's environment."""
    choices = [argument for setting in settings for argument in ("--set", setting)]
    script = HERE / f"quantize_{peer}.py"
    subprocess.run([str(python), str(script), str(folder), "--name", name, *numbers, *choices], check=True)


if __name__ == "__main__":
    main()
