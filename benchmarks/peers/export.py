"""Writes the exchange folder: the model as a plain transformers folder, and calibration token ids.

    python benchmarks/peers/export.py smollm2-135m-instruct FOLDER --samples 128 --seq-len 512

Weights are written in bfloat16. Everybody starts from these, including slmquant and the full-precision reference.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from slmquant.calib.corpora import load_corpus
from slmquant.calib.windows import calibration_windows
from slmquant.model.sources.load import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--corpus", default="wikitext2_train")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    loaded = load(given.model)
    windows = calibration_windows(loaded.tokenizer, load_corpus(given.corpus), given.samples, given.seq_len, given.seed)
    given.folder.mkdir(parents=True, exist_ok=True)
    torch.nn.Module.to(loaded.model, torch.bfloat16).save_pretrained(given.folder / "model")
    loaded.tokenizer.save_pretrained(given.folder / "model")
    np.save(given.folder / "calibration.npy", windows.numpy())
    print(f"{given.folder}: {given.model} ({loaded.card.provenance}), {given.samples} x {given.seq_len} tokens")


if __name__ == "__main__":
    main()
