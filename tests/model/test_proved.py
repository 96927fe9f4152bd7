"""What is read is proved: what is fingerprinted is what is loaded, and no tensor is dropped without a word."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from transformers import PreTrainedModel

from slmquant.artifact import Artifact
from slmquant.errors import ModelError
from slmquant.formats import native
from slmquant.model.sources.fingerprint import fingerprint
from slmquant.model.sources.load import identify, load
from slmquant.model.sources.resolve import local_models, resolve
from slmquant.testing.tiny import VOCABULARY, tiny
from tests.formats.gguf_models import export, quantized, tokenizer

IDS = torch.arange(3, 40)[None]


@pytest.fixture(autouse=True)
def own_cache(empty_cache: Path) -> None:
    """Nothing is remembered."""


def saved(model: PreTrainedModel, folder: Path, **options: Any) -> Path:
    model.save_pretrained(folder, **options)
    tokenizer().save_pretrained(folder)
    return folder


def change_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_weights(folder: Path, change: Mapping[str, torch.Tensor]) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, **change}, folder / "model.safetensors", metadata={"format": "pt"})


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(IDS).logits
    return found


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load(str(folder))
    return str(caught.value)


def test_what_is_fingerprinted_is_what_is_loaded(tmp_path: Path) -> None:
    """Shards with their index, and a newer model.safetensors beside them."""
    both = saved(tiny("llama"), tmp_path / "both", max_shard_size="20KB")
    new = saved(tiny("llama", seed=1), tmp_path / "new")
    shards = fingerprint(both)
    assert (both / "model.safetensors.index.json").exists()
    shutil.copy(new / "model.safetensors", both)

    loaded = load(str(both))

    assert loaded.sha256 == fingerprint(new) != shards
    assert torch.equal(logits(loaded.model), logits(load(str(new)).model))


@pytest.mark.parametrize(
    ("shards", "said"),
    [
        ({}, "names no tensors"),
        ([], "names no tensors"),
        ({"a": "../x/model-1.safetensors"}, "plain name"),
        ({"a": "/model-1.safetensors"}, "plain name"),
        ({"a": "sub/model-1.safetensors"}, "plain name"),
        ({"a": 3}, "plain name"),
        ({"a": "model-1.safetensors", "b": "model-1.safetensors"}, "names 1 tensors that no file holds, the first b"),
        ({"a": "model-1.safetensors", "c": "model-2.safetensors"}, "both hold a"),
    ],
)
def test_an_index_names_files_beside_it_and_what_they_hold(tmp_path: Path, shards: object, said: str) -> None:
    (tmp_path / "x").mkdir()
    save_file({"a": torch.ones(2)}, tmp_path / "x" / "model-1.safetensors")
    save_file({"a": torch.ones(2), "c": torch.ones(2)}, tmp_path / "x" / "model-2.safetensors")
    (tmp_path / "x" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))

    with pytest.raises(ModelError, match=said):
        fingerprint(tmp_path / "x")


def test_a_flipped_bit_is_seen_although_size_and_time_are_the_same(tmp_path: Path) -> None:
    folder = saved(tiny("llama"), tmp_path / "x")
    before, file = fingerprint(folder), folder / "model.safetensors"
    stat, content = file.stat(), bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    assert fingerprint(folder) != before


@pytest.mark.parametrize("other", ["adapter", "named file"])
def test_what_would_load_other_weights_is_refused(tmp_path: Path, other: str) -> None:
    folder = saved(tiny("llama"), tmp_path / "x")
    if other == "adapter":
        (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "elsewhere"}')
    else:
        change_config(folder, transformers_weights="other.safetensors")

    assert ("adapter" if other == "adapter" else "transformers_weights") in refusal(folder)


def test_a_head_of_its_own_under_a_tied_flag_is_kept_everywhere(tmp_path: Path) -> None:
    made = tiny("llama", tie_word_embeddings=False)
    folder = saved(made, tmp_path / "x")
    change_config(folder, tie_word_embeddings=True)

    loaded = load(str(folder))

    assert torch.equal(logits(loaded.model), logits(made))
    assert loaded.model.config.tie_word_embeddings is False
    assert identify(str(folder)).card.parameters == sum(p.numel() for p in made.parameters())


def test_a_head_that_is_the_embedding_stays_tied(tmp_path: Path) -> None:
    folder = saved(tiny("llama"), tmp_path / "x")
    change_weights(folder, {"lm_head.weight": load_file(folder / "model.safetensors")["model.embed_tokens.weight"]})

    loaded = load(str(folder)).model

    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight


def test_the_tie_that_the_model_has_is_what_an_artifact_says(tmp_path: Path) -> None:
    made = quantized("llama-untied", "rtn", "W8A16")
    made.model.config.tie_word_embeddings = True

    native.save(Artifact(made, tokenizer(), "tiny", "0"), tmp_path / "x")
    read = native.load(tmp_path / "x").quantized.model

    assert read.config.tie_word_embeddings is False
    torch.testing.assert_close(logits(read), logits(made.model), rtol=0, atol=0.1)


@pytest.mark.parametrize("what", ["layers", "biases", "norms", "a buffer"])
def test_tensors_that_the_config_has_no_place_for_are_named(tmp_path: Path, what: str) -> None:
    name = {"layers": "llama", "biases": "llama-bias", "norms": "qwen3", "a buffer": "llama"}[what]
    folder = saved(tiny(name), tmp_path / "x")
    if what == "layers":
        change_config(folder, num_hidden_layers=1)
        assert "the first model.layers.1." in refusal(folder)
    elif what == "biases":
        change_config(folder, attention_bias=False, mlp_bias=False)
        assert "bias" in refusal(folder)
    elif what == "norms":
        change_config(folder, model_type="llama", architectures=["LlamaForCausalLM"])
        assert "norm" in refusal(folder)
    else:  # which transformers says is harmless
        change_weights(folder, {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(5)})
        load(str(folder))


def test_more_layers_than_tensors_are_refused_before_anything_is_built(tmp_path: Path) -> None:
    folder = saved(tiny("llama"), tmp_path / "x")
    change_config(folder, num_hidden_layers=1_000_000)

    assert "num_hidden_layers = 1000000, but the weight files hold 20 tensors" in refusal(folder)


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"model_type": 3}', "[" * 5000, '{"model_type": "llama", "hidden_size": "x"}']
)
def test_a_malformed_config_is_one_line(tmp_path: Path, content: str) -> None:
    folder = saved(tiny("llama"), tmp_path / "x")
    (folder / "config.json").write_text(content)

    assert "config.json" in refusal(folder)


@pytest.mark.parametrize("layout", ["gptq", "awq", "compressed_tensors"])
def test_packed_sources_are_read_as_the_weights_that_they_stand_for(tmp_path: Path, layout: str) -> None:
    from slmquant import formats

    made = quantized("llama", "rtn", "W4A16g32-asym" if layout == "awq" else "W4A16g32")
    formats.load(layout).write(export(made), tmp_path / "x")

    loaded = load(str(tmp_path / "x"))

    for name, weight in made.weights.items():
        expected = weight.dequantize()
        found = loaded.model.get_submodule(name).get_parameter("weight")
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(logits(loaded.model), logits(made.model), rtol=0, atol=0.15)
    assert loaded.card.provenance.endswith("on-grid")
    assert not hasattr(loaded.model.config, "quantization_config")


def eight_bits(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a folder as FP8 with a scale beside each, as such checkpoints are published."""
    made: dict[str, torch.Tensor] = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        if weight.ndim == 2 and "layers" in name:
            scale = weight.abs().max() / 448
            made |= {name: (weight / scale).to(torch.float8_e4m3fn), f"{name}_scale_inv": scale.reshape(1, 1)}
        else:
            made[name] = weight
    return made


def test_fp8_sources_are_read_with_their_scales_and_refused_without_a_word_on_them(tmp_path: Path) -> None:
    model = tiny("llama")
    folder = saved(model, tmp_path / "x")
    save_file(eight_bits(folder), folder / "model.safetensors", metadata={"format": "pt"})

    assert "F8_E4M3" in refusal(folder)
    change_config(folder, quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]})

    assert float((logits(load(str(folder)).model) - logits(model)).abs().max() / logits(model).std()) < 0.6


def test_other_packed_sources_are_refused_by_name(tmp_path: Path) -> None:
    folder = saved(tiny("llama"), tmp_path / "x")
    change_config(folder, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    assert "unsupported method 'bitsandbytes'" in refusal(folder)

    activations = {"group_0": {"weights": {}, "input_activations": {"num_bits": 8}}}
    change_config(folder, quantization_config={"quant_method": "compressed-tensors", "config_groups": activations})
    assert "rounds activations" in refusal(folder)


def test_a_token_without_a_row_is_said_when_opened_and_an_error_when_used(tmp_path: Path) -> None:
    folder = saved(tiny("llama"), tmp_path / "x")
    larger = tokenizer()
    larger.add_tokens([AddedToken("<|tool|>", special=True)])
    larger.save_pretrained(folder)

    loaded = load(str(folder))

    assert len(larger) == VOCABULARY + 1
    assert ["'<|tool|>'" in remark for remark in loaded.remarks] == [True]
    logits(loaded.model)
    with pytest.raises(
        ModelError, match=r"token 67 \('<\|tool\|>'\) is in the text, but the embedding has only 67 rows"
    ):
        loaded.model(torch.tensor([[3, VOCABULARY]]))


@pytest.mark.parametrize("damage", ["scheme", "bit", "config", "tokenizer", "absent"])
def test_an_artifact_that_was_changed_is_refused(tmp_path: Path, damage: str) -> None:
    folder = native.save(Artifact(quantized("llama", "rtn", "W4A16g32"), tokenizer(), "t", "0"), tmp_path / "x")
    manifest, weights = folder / native.MANIFEST, folder / "model.safetensors"
    if damage == "scheme":
        manifest.write_text(manifest.read_text().replace("W4A16g32", "W4A8g32"))
    elif damage == "bit":
        content = bytearray(weights.read_bytes())
        content[-3] ^= 1
        weights.write_bytes(content)
    elif damage == "config":
        change_config(folder, rms_norm_eps=1e-2)
    elif damage == "tokenizer":
        (folder / "tokenizer.json").write_text("{}")
    else:
        (folder / "tokenizer.json").unlink()

    with pytest.raises(ModelError, match="quantize again"):
        native.load(folder)


def without_checksums(folder: Path, **values: object) -> Path:
    """The manifest as version 2 wrote it."""
    path = folder / native.MANIFEST
    content = json.loads(path.read_text()) | {"version": 2} | values
    path.write_text(json.dumps({name: value for name, value in content.items() if name not in ("files", "sha256")}))
    return folder


def test_older_artifacts_are_read_with_a_remark_and_their_scheme_is_held_against_their_codes(tmp_path: Path) -> None:
    made = quantized("llama", "rtn", "W4A16g32")
    folder = native.save(Artifact(made, tokenizer(), "t", "0"), tmp_path / "x")

    read = native.load(without_checksums(folder)).quantized

    assert any("no checksums" in note for note in read.notes)
    torch.testing.assert_close(logits(read.model), logits(made.model), rtol=0, atol=0.1)
    for scheme in ("W8A16g32", "W4A16g64", "W4A16"):
        with pytest.raises(ModelError, match=f"which does not match {scheme}"):
            native.load(without_checksums(folder, scheme=scheme))
    change_weights(without_checksums(folder, scheme="W4A16g32"), {"lm_head.weight": torch.ones(VOCABULARY, 96)})
    with pytest.raises(ModelError, match=r"do not explain, the first lm_head\.weight"):
        native.load(folder)


def test_one_broken_config_in_the_cache_costs_its_own_model_alone(empty_cache: Path) -> None:
    for name, content in (("whole", '{"model_type": "llama"}'), ("broken", "{"), ("list", "[]")):
        folder = empty_cache / "models" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(content)
    (empty_cache / "models" / "odd").mkdir()
    (empty_cache / "models" / "odd" / "config.json").write_text("{}")
    (empty_cache / "models" / "odd" / "slmquant_provenance.json").write_text("{")

    assert {model.name: model.architecture for model in local_models()} == {
        "whole": "llama",
        "broken": None,
        "list": None,
        "odd": None,
    }
    with pytest.raises(Exception, match="unknown model 'hwole'"):
        resolve("hwole")
