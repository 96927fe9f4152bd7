"""Writes models of random weights in an engine's format, one file for each width."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from slmquant import formats
from slmquant.artifact import Artifact
from slmquant.calib.calibration import NoCalibration
from slmquant.errors import SlmquantError
from slmquant.ladder.rungs import ARCHITECTURE, WIDTHS, Rung, method_of
from slmquant.machine.process import Failure, explain
from slmquant.progress import Progress, track
from slmquant.quantization import quantize_
from slmquant.schemes import parse

CONTEXT = 2048
"""Longest sequence that the models state."""
_END = "<|endoftext|>"


@dataclass(frozen=True)
class FilesJob:
    """The files of one size in one format.

    Attributes:
        rung: The size.
        format: Name of the format.
        folder: Folder to write them to.
    """

    rung: Rung
    format: str
    folder: Path


@dataclass(frozen=True)
class RandomFile:
    """A written file or folder.

    Attributes:
        path: Where it lies.
        weight_bytes: Bytes of its weights.
    """

    path: Path
    weight_bytes: int


def write_files(job: FilesJob, progress: Progress) -> dict[str, RandomFile | Failure]:
    """Scheme → its file, or why there is none."""
    written: dict[str, RandomFile | Failure] = {}
    for scheme in track(list(WIDTHS), f"{job.rung.model}: write {job.format}", progress):
        try:
            written[scheme] = _write(job, scheme)
        except SlmquantError as error:
            written[scheme] = explain(error)
    return written


def random_model(rung: Rung) -> PreTrainedModel:
    """A model of a size in float32, the same each time."""
    config = AutoConfig.for_model(
        ARCHITECTURE,
        vocab_size=rung.vocabulary,
        hidden_size=rung.hidden,
        intermediate_size=rung.intermediate,
        num_hidden_layers=rung.layers,
        num_attention_heads=rung.heads,
        num_key_value_heads=rung.key_heads,
        head_dim=rung.head,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.train(False)
    return model


def _write(job: FilesJob, scheme: str) -> RandomFile:
    rung, fmt = job.rung, formats.load(job.format)
    quantized = quantize_(random_model(rung), method_of(scheme), parse(scheme), NoCalibration())
    artifact = Artifact(quantized, _bytes_tokenizer(), rung.model, rung.sha256)
    written = fmt.write(artifact, job.folder / f"{scheme}{fmt.suffix}")
    return RandomFile(written.path, sum(placement.stored_bytes for placement in written.placements))


def _bytes_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of bytes with a single merge, which llama.cpp demands: no text is ever read, but formats need one."""
    tokens = [_END, *sorted(pre_tokenizers.ByteLevel.alphabet()), "ee"]
    merges = [("e", "e")]
    tokenizer = Tokenizer(models.BPE(vocab={token: place for place, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=_END)
