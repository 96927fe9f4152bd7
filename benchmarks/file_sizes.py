"""Prints the longest source files and fails if one has more than 400 lines."""

from __future__ import annotations

import sys
from pathlib import Path

AIM, CEILING = 300, 400


def main() -> int:
    root = Path(__file__).resolve().parent.parent / "src"
    lengths = {path: len(path.read_text().splitlines()) for path in root.rglob("*.py")}
    longest = sorted(lengths.items(), key=lambda item: -item[1])
    short = sum(length <= AIM for length in lengths.values()) / len(lengths)
    print(f"{len(lengths)} files, {sum(lengths.values())} lines, {short:.0%} of the files have at most {AIM} lines")
    for path, length in longest[:5]:
        print(f"{length:5} {path.relative_to(root)}")
    return int(longest[0][1] > CEILING)


if __name__ == "__main__":
    sys.exit(main())
