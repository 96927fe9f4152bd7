"""Text is cut into the same tokens by llama.cpp as by transformers, or the tokenizer is refused."""

import json
from pathlib import Path

import gguf
import pytest
from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE, WordLevel
from tokenizers.normalizers import NFC, Lowercase, Prepend, Replace, Sequence
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Split, Whitespace
from tokenizers.pre_tokenizers import Sequence as Steps
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from slmquant.artifact import Artifact
from slmquant.errors import RefusedError
from slmquant.formats.gguf.tokenizer import vocabulary_of
from slmquant.formats.gguf.writer import FORMAT
from slmquant.model.sources.resolve import models_dir
from tests.formats.gguf_models import quantized

QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEXTS = (
    "The capital of France is Paris.",
    "  two spaces, 3.14159 and 2026\n\n\tdef f(x):\n    return x ** 2",
    "naïve café, Ω, 日本語, 🙂 and a\u00a0gap",
    "it's they'll WE'VE",
    "<|im_start|>user\nHello<|im_end|>\n",
    "a",
)


def byte_level(pre: PreTokenizer, ignore_merges: bool = False) -> PreTrainedTokenizerFast:
    words = ["Ċ", "Ġ", "a", "b", "ab"]
    made = Tokenizer(BPE({word: place for place, word in enumerate(words)}, [("a", "b")], ignore_merges=ignore_merges))
    made.pre_tokenizer = pre
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>")


@pytest.mark.parametrize(
    ("steps", "ignore_merges", "name"),
    [
        (ByteLevel(add_prefix_space=False), False, "gpt-2"),
        (Steps([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]), False, "smollm"),
        (Steps([Split(Regex(QWEN), "isolated"), ByteLevel(False, use_regex=False)]), False, "qwen2"),
        (Steps([Split(Regex(QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")), "isolated"),
                ByteLevel(False, use_regex=False)]), True, "llama-bpe"),
    ],
)  # fmt: skip
def test_a_splitting_rule_is_known_by_what_it_does(steps: PreTokenizer, ignore_merges: bool, name: str) -> None:
    vocabulary = vocabulary_of(byte_level(steps, ignore_merges), 9)

    assert (vocabulary.model, vocabulary.pre) == ("gpt2", name)
    assert vocabulary.merges == ("a b",)
    assert vocabulary.tokens[:6] == ("Ċ", "Ġ", "a", "b", "ab", "<s>")
    assert vocabulary.types[4:7] == (gguf.TokenType.NORMAL, gguf.TokenType.CONTROL, gguf.TokenType.UNUSED)


def test_sentencepiece_merges_become_scores() -> None:
    words = ["<unk>", "<0x0A>", "▁", "a", "b", "ab", "▁ab"]
    made = Tokenizer(
        BPE(
            {word: place for place, word in enumerate(words)},
            [("a", "b"), ("▁", "ab")],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    made.normalizer = Sequence([Prepend("▁"), Replace(" ", "▁")])
    vocabulary = vocabulary_of(PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>"), 7)

    assert vocabulary.model == "llama"
    assert vocabulary.space_prefix
    assert vocabulary.scores[5] > vocabulary.scores[6]  # merged first
    assert vocabulary.types[:2] == (gguf.TokenType.UNKNOWN, gguf.TokenType.BYTE)


def test_what_llama_cpp_does_not_do_is_refused(tmp_path: Path) -> None:
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0})))
    with pytest.raises(RefusedError, match="WordLevel"):
        vocabulary_of(words, 1)
    with pytest.raises(RefusedError, match="splits text by 'Whitespace'"):
        vocabulary_of(byte_level(Whitespace()), 9)
    lower = byte_level(ByteLevel(add_prefix_space=False))
    lower.backend_tokenizer.normalizer = Sequence([NFC(), Lowercase()])
    with pytest.raises(RefusedError, match="changes text by Lowercase"):
        vocabulary_of(lower, 9)
    with pytest.raises(RefusedError, match="WordLevel"):
        FORMAT.write(Artifact(quantized("llama"), words, "tiny", "0" * 64), tmp_path / "model.gguf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.real_model
@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "stories15m", "gemma-3-270m"])
def test_real_tokenizers_cut_the_same(tmp_path: Path, name: str) -> None:
    llama_cpp = pytest.importorskip("cyllama.llama.llama_cpp")
    folder = models_dir() / name
    if not folder.exists():
        pytest.skip(f"{name} is not here; run: slmquant pull {name}")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = json.loads((folder / "config.json").read_bytes())["vocab_size"]
    made = quantized("llama", vocab_size=rows, hidden_size=32, num_attention_heads=2, num_key_value_heads=1)
    FORMAT.write(Artifact(made, tokenizer, "tiny", "0" * 64), tmp_path / "model.gguf")
    llama_cpp.set_log_callback(lambda _level, _text: None)
    model = llama_cpp.LlamaModel(str(tmp_path / "model.gguf"), llama_cpp.LlamaModelParams())
    vocabulary = model.get_vocab()  # lives no longer than its model

    for text in TEXTS:
        assert vocabulary.tokenize(text, True, True) == tokenizer(text).input_ids, text
