"""An exported file says what its tokenizer does: every end, every token, and the same cuts, or it is refused."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import NFC, Prepend, Replace, Sequence
from tokenizers.pre_tokenizers import Metaspace
from transformers import PreTrainedTokenizerFast

from slmquant.artifact import Artifact
from slmquant.errors import RefusedError
from slmquant.formats.gguf import proof
from slmquant.formats.gguf.writer import FORMAT, Gguf
from slmquant.model.computing.grids import grid_of
from slmquant.schemes import parse
from slmquant.testing.tiny import VOCABULARY
from tests.formats.gguf_models import quantized, tokenizer
from tests.narrowed import present


def exported(
    path: Path, made: PreTrainedTokenizerFast, ends: list[int] | None = None, any_tokenization: bool = False
) -> tuple[str, ...]:
    model = quantized("llama", vocab_size=max(VOCABULARY, len(made)))
    if ends is not None:
        model.model.generation_config.eos_token_id = ends
    return Gguf(any_tokenization=any_tokenization).write(Artifact(model, made, "tiny", "0" * 64), path).remarks


def pieces(prepend: str | None, normalized: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer of sentencepiece's kind with an added token.

    Args:
        prepend: Metaspace's scheme; None where normalizers put the space before a text, as in Llama 2.
        normalized: Whether the added token is looked for in normalized text.
    """
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "ab", "▁ab"]
    merges = [("a", "b"), ("▁", "ab")]
    made = Tokenizer(BPE({w: i for i, w in enumerate(words)}, merges, unk_token="<unk>", byte_fallback=True))
    if prepend is None:
        made.normalizer = Sequence([Prepend("▁"), Replace(" ", "▁")])
    else:
        made.pre_tokenizer = Metaspace(prepend_scheme=prepend, split=False)
    made.add_tokens([AddedToken("<|tool|>", special=not normalized, normalized=normalized)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def fields(path: Path) -> dict[str, object]:
    reader = gguf.GGUFReader(path)
    return {name: present(reader.get_field(name)).contents() for name in reader.fields if "token_id" in name}


def test_every_end_of_a_text_is_written_or_named(tmp_path: Path) -> None:
    own = tokenizer().eos_token_id

    assert not any("end-of-text tokens" in remark for remark in exported(tmp_path / "a.gguf", tokenizer(), [own, 4, 5]))
    said = fields(tmp_path / "a.gguf")
    assert [said[f"tokenizer.ggml.{name}_token_id"] for name in ("eos", "eot", "eom")] == [own, 4, 5]

    remarks = exported(tmp_path / "b.gguf", tokenizer(), [own, 4, 5, 6])
    assert any("no key for further end-of-text tokens" in remark for remark in remarks)


@pytest.mark.parametrize("in_template", [False, True])
def test_tokens_without_a_row_are_named_and_refused_where_the_template_writes_one(
    tmp_path: Path, in_template: bool
) -> None:
    made = tokenizer()
    made.add_tokens([AddedToken("<|tool|>", special=True)])
    made.chat_template = "{{ '<|tool|>' }}" if in_template else "{{ 'a' }}"
    export = Artifact(quantized("llama"), made, "tiny", "0" * 64)

    if in_template:
        with pytest.raises(RefusedError, match=r"template writes '<\|tool\|>'"):
            FORMAT.write(export, tmp_path / "a.gguf")
    else:
        assert any("'<|tool|>'" in remark for remark in FORMAT.write(export, tmp_path / "a.gguf").remarks)


@pytest.mark.parametrize("scheme", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_weights_beyond_float16_keep_both_stored_numbers_in_range(scheme: str) -> None:
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    weight[1, 2], weight[2, 3] = -9e4, 3e5
    spec = parse(scheme).weights
    assert spec is not None

    rounded = grid_of(spec).quantize(weight)

    assert all(bool(torch.isfinite(part.float()).all()) for part in rounded.parts.values())
    assert bool(torch.isfinite(rounded.dequantize()).all())


@pytest.mark.parametrize("kind", [{"rstrip": True}, {"lstrip": True}, {"single_word": True}])
def test_known_kinds_are_refused_without_the_engine(
    tmp_path: Path, kind: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "find_spec", lambda _name: None)
    made = tokenizer()
    assert any("was not checked" in remark for remark in exported(tmp_path / "a.gguf", made))
    made.add_tokens([AddedToken("<|tool|>", special=True, **kind)])

    with pytest.raises(RefusedError, match=r"<\|tool\|>.*--any-tokenization"):
        exported(tmp_path / "b.gguf", made)
    assert any("<|tool|>" in remark for remark in exported(tmp_path / "b.gguf", made, any_tokenization=True))


def test_a_space_before_the_beginning_alone_is_known_without_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "find_spec", lambda _name: None)

    with pytest.raises(RefusedError, match="adds a space at the start of the text only"):
        exported(tmp_path / "a.gguf", pieces("first"))


def test_text_that_is_not_composed_is_named(tmp_path: Path) -> None:
    made = tokenizer()
    assert not any("NFC" in remark for remark in exported(tmp_path / "a.gguf", made))
    made.backend_tokenizer.normalizer = NFC()

    assert any(
        "not in Unicode NFC is tokenized differently" in remark for remark in exported(tmp_path / "b.gguf", made)
    )


@pytest.mark.engine
def test_text_that_is_not_composed_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named because llama.cpp cuts it otherwise, not because of what the tokenizer says of itself."""
    pytest.importorskip("cyllama")
    made = tokenizer()
    made.backend_tokenizer.normalizer = NFC()
    assert any(
        "does not normalize" in remark and "tokens, " in remark for remark in exported(tmp_path / "a.gguf", made)
    )

    monkeypatch.setattr(proof, "_TEXTS", ("composed \u00e4",))
    assert not any("NFC" in remark for remark in exported(tmp_path / "b.gguf", made))


@pytest.mark.engine
@pytest.mark.parametrize(("prepend", "normalized"), [("first", False), (None, True)])
def test_sentencepieces_that_llama_cpp_cuts_otherwise_are_refused(
    tmp_path: Path, prepend: str | None, normalized: bool
) -> None:
    pytest.importorskip("cyllama")

    with pytest.raises(
        RefusedError, match=r"llama.cpp tokenizes text differently from this tokenizer: '.*--any-tokenization"
    ):
        exported(tmp_path / "a.gguf", pieces(prepend, normalized))


@pytest.mark.engine
def test_sentencepieces_that_llama_cpp_cuts_the_same_are_written(tmp_path: Path) -> None:
    pytest.importorskip("cyllama")

    assert exported(tmp_path / "a.gguf", pieces(None)) == ()


@pytest.mark.engine
@pytest.mark.parametrize("kind", [{"rstrip": True}, {"lstrip": True}])
def test_a_difference_that_llama_cpp_shows_is_refused_unless_asked_for(tmp_path: Path, kind: dict[str, bool]) -> None:
    pytest.importorskip("cyllama")
    made = tokenizer()
    assert exported(tmp_path / "a.gguf", made) == ()
    made.add_tokens([AddedToken("<|tool|>", special=True, **kind)])

    with pytest.raises(RefusedError, match=r"<\|tool\|>"):
        exported(tmp_path / "b.gguf", made)
    assert exported(tmp_path / "b.gguf", made, any_tokenization=True)
