"""A made-up model, and made-up text in the form of the local data folder."""

from __future__ import annotations

import gzip
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.tasks.made_up import arc_rows, sentences, write_rows


def write_text(data: Path, name: str, seed: int, count: int = 60) -> None:
    (data / "text").mkdir(parents=True, exist_ok=True)
    (data / "text" / f"{name}.txt.gz").write_bytes(gzip.compress(sentences(seed, count).encode()))


def make_data(folder: Path) -> Path:
    """A local folder of data in `folder`: two texts, and 12 ARC questions."""
    data = folder / "data"
    write_text(data, "wikitext2_test", 1)
    write_text(data, "wikitext2_train", 2)
    write_rows(data, "arc_easy", "test", arc_rows(2, 12))
    return data


def make_model(folder: Path) -> Path:
    """A random model of two layers in `folder`, with a tokenizer that was trained on the spot."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        [sentences(0, 200)],
        trainers.BpeTrainer(
            vocab_size=330, initial_alphabet=alphabet, special_tokens=["<s>", "</s>"], show_progress=False
        ),
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=330, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.3,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )  # fmt: skip
    model = folder / "model"
    LlamaForCausalLM(config).save_pretrained(model)
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>").save_pretrained(model)
    return model
