"""Makes a virtual environment for a peer, outside the repository.

    python benchmarks/peers/setup.py hqq --venvs ~/peers

torch is installed first, so that no dependency installs another build. On Linux pip's default is the CUDA build; for
the CPU one pass PyTorch's own index of CPU wheels as `--index`, or configure pip for it. Then the peer is installed,
with versions pinned by constraints.txt.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).parent / "requirements"
PEERS = tuple(sorted(file.stem for file in REQUIREMENTS.glob("*.txt") if file.stem != "constraints"))


def python_of(venvs: Path, peer: str) -> Path:
    """The interpreter of a peer's environment."""
    return venvs.expanduser() / peer / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", nargs="+", choices=PEERS)
    parser.add_argument("--venvs", type=Path, required=True, help="folder for the environments, one per peer")
    parser.add_argument("--index", help="package index for torch only, such as PyTorch's own index of CPU wheels")
    given = parser.parse_args()
    for peer in given.peers:
        python = python_of(given.venvs, peer)
        subprocess.run([sys.executable, "-m", "venv", str(python.parent.parent)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "-c", str(REQUIREMENTS / "constraints.txt")]
        index = ["--index-url", given.index] if given.index else []
        subprocess.run([*install, *index, "torch==2.13.0"], check=True)
        subprocess.run([*install, "-r", str(REQUIREMENTS / f"{peer}.txt")], check=True)
        print(f"{peer}: {python}")


if __name__ == "__main__":
    main()
