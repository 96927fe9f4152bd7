"""Checks the results of an end-to-end run of `plans/smoke.yaml`; used by CI."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

PERPLEXITY = 27.63
"""Of SmolLM2-135M-Instruct on the two windows of the plan; off its grid it is the same function as on it."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--html", type=Path, required=True)
    arguments = parser.parse_args()
    rows = json.loads(arguments.results.read_text())
    values = {
        (record["spec"]["method"], record["spec"]["scheme"], metric["name"]): metric["value"]
        for record in rows
        for metric in record["metrics"]
    }
    reference = values["none", "W16A16", "perplexity"]
    checks = {
        "every cell is ok": all(record["status"] == "ok" for record in rows),
        "five cells": len(rows) == 5,
        "full precision has its perplexity": abs(reference / PERPLEXITY - 1) < 0.02,
        "its noise floor is small": 0 < values["none", "W16A16", "kl_noise_floor"] < 0.01,
        "Smooth-RMS W8A8 within 2 % of full precision": abs(values["smooth_rms", "W8A8", "perplexity"] / reference - 1)
        < 0.02,
        "Smooth-RMS W8A8 better than RTN in divergence": values["smooth_rms", "W8A8", "kl_mean"]
        < values["rtn", "W8A8", "kl_mean"],
        "RTN W4A16g64 clearly worse": values["rtn", "W4A16g64", "perplexity"] > 1.1 * reference,
        "GPTQ-sink W4A16g64 better than RTN in perplexity": values["gptq_sink", "W4A16g64", "perplexity"]
        < values["rtn", "W4A16g64", "perplexity"],
        "GPTQ-sink W4A16g64 better than RTN in divergence": values["gptq_sink", "W4A16g64", "kl_mean"]
        < values["rtn", "W4A16g64", "kl_mean"],
        "the page is there and self-contained": "https://" not in arguments.html.read_text().split("<body", 1)[0],
    }
    for check, passed in checks.items():
        print("ok  " if passed else "FAIL", check)
    return int(not all(checks.values()))


if __name__ == "__main__":
    sys.exit(main())
