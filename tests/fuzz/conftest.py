"""Sound inputs, made once; a test spoils a copy of them."""

from __future__ import annotations

import gzip
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from slmquant.cli._app import run
from slmquant.model.sources.fingerprint import compute_fingerprint
from slmquant.model.sources.provenance import PROVENANCE_FILE, Provenance
from slmquant.store import Store
from tests import invented

_LONGEST_S = 30
WORDS = tuple(
    re.findall(r"\w+", "the cat dog bird river stone house small big red blue ran sat saw took gave near with")
)


EXIT_CODES = range(11)
"""Success, and the errors that `slmquant --help` lists."""


@dataclass(frozen=True)
class Ended:
    """How a command line ended."""

    code: int
    out: str
    err: str


class Slmquant:
    """The command line in this process, in a folder of its own."""

    def __init__(self, capsys: pytest.CaptureFixture[str], cache: Path) -> None:
        self._capsys, self._cache = capsys, cache

    def __call__(self, *words: str) -> Ended:
        """Run it.

        Raises:
            AssertionError: It met something that nobody foresaw, or said nothing of why it failed.
        """
        self._capsys.readouterr()
        code = run(words)
        out, err = self._capsys.readouterr()
        unforeseen = sorted((self._cache / "errors").glob("*.txt")) if (self._cache / "errors").exists() else []
        if unforeseen:
            text = unforeseen[-1].read_text()
            for file in unforeseen:
                file.unlink()
            pytest.fail(f"slmquant {' '.join(words)!r}: {text[-3000:]}")
        assert "Traceback" not in out + err
        assert code == 0 or err.strip(), f"exit code {code} without a word"
        assert code in EXIT_CODES
        assert "\x1b[31m" not in out + err, "a terminal would obey it"
        return Ended(code, out, err)


@pytest.fixture(autouse=True)
def _in_time() -> Iterator[None]:
    """Whatever is spoilt, an answer comes in seconds."""

    def late(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"no answer in {_LONGEST_S} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(_LONGEST_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one of everything; `pulled` is `model` with its provenance."""
    folder = tmp_path_factory.mktemp("sound")
    text = " ".join(WORDS[index % 7 * index % len(WORDS)] for index in range(6000))
    (folder / "data" / "text").mkdir(parents=True)
    (folder / "data" / "text" / "wikitext2_train.txt").write_text(text)
    (folder / "data" / "text" / "wikitext2_test.txt.gz").write_bytes(gzip.compress(text.encode()))
    config = LlamaConfig(
        vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder / "model")
    vocabulary = {word: index for index, word in enumerate(["<unk>", "<s>", "</s>", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    tokenizer.save_pretrained(folder / "model")
    shutil.copytree(folder / "model", folder / "pulled")
    provenance = Provenance(
        name="x", source="file:x", files={}, description="original", slmquant_version="0",
        weights_sha256=compute_fingerprint(folder / "pulled"),
    )  # fmt: skip
    (folder / "pulled" / PROVENANCE_FILE).write_text(provenance.model_dump_json())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLMQUANT_CACHE", str(folder / "cache"))
        patch.setenv("SLMQUANT_DATA", str(folder / "data"))
        model, native = str(folder / "model"), str(folder / "native")
        assert run(["quantize", model, "--method", "rtn", "--scheme", "W4A16g32", "-o", native, "-q"]) == 0
        _write_gguf(folder / "model.gguf")
    with Store(folder / "store.sqlite") as store:
        for record in invented.benchmark():
            store.put(record, invented.items(record))
    return folder


def _write_gguf(path: Path) -> None:
    """A GGUF file as llama.cpp's own converter writes one of such a model, in float32."""
    import gguf
    import numpy as np

    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(259)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores([0.0] * len(pieces))
    writer.add_token_types([2, 3, 3, *([6] * 256)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    shapes = {"token_embd": (259, 32), "output_norm": (32,), "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,)}
    shapes |= {"blk.0.attn_q": (32, 32), "blk.0.attn_k": (16, 32), "blk.0.attn_v": (16, 32)}
    shapes |= {"blk.0.attn_output": (32, 32), "blk.0.ffn_gate": (64, 32), "blk.0.ffn_up": (64, 32)}
    shapes |= {"blk.0.ffn_down": (32, 64)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def cache(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own; small data, no hub."""
    monkeypatch.setenv("SLMQUANT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SLMQUANT_DATA", str(sound / "data"))  # so that nothing is downloaded
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("SLMQUANT_DEBUG", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.fixture
def slmquant(capsys: pytest.CaptureFixture[str], cache: Path) -> Slmquant:
    """The command line."""
    assert sys.stdout is not None
    return Slmquant(capsys, cache)
