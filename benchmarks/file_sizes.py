"""Prints the longest source files; fails if one has more than 400 lines, or more than 3 % have more than 300."""

from __future__ import annotations

import sys
from pathlib import Path

AIM, CEILING = 300, 400
SHARE = 0.97
"""Least share of the files that have at most `AIM` lines."""


def main() -> int:
    root = Path(__file__).resolve().parent.parent / "src"
    lengths = {path: len(path.read_text().splitlines()) for path in root.rglob("*.py")}
    longest = sorted(lengths.items(), key=lambda item: -item[1])
    short = sum(length <= AIM for length in lengths.values()) / len(lengths)
    print(f"{len(lengths)} files, {sum(lengths.values())} lines, {short:.1%} of the files have at most {AIM} lines")
    for path, length in longest[:5]:
        print(f"{length:5} {path.relative_to(root)}")
    return int(longest[0][1] > CEILING or short < SHARE)


if __name__ == "__main__":
    sys.exit(main())
