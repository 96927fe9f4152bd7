"""A model is loaded whole, or refused in one line that says why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from slmquant.errors import ModelError
from slmquant.model.sources.load import identify, load


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load(str(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_weights(folder: Path, name: str, tensor: torch.Tensor | None) -> None:
    tensors = load_file(folder / "model.safetensors")
    if tensor is None:
        del tensors[name]
    else:
        tensors[name] = tensor
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_model_is_loaded_with_what_is_known_of_it(tiny_folder: Path) -> None:
    loaded = load(str(tiny_folder))

    assert loaded.model.dtype == torch.float32
    assert not loaded.model.training
    assert loaded.model.config._attn_implementation == "sdpa"
    assert loaded.folder == tiny_folder
    assert loaded.card.architecture == "llama"
    assert loaded.card.provenance == "original"
    assert loaded.card.licence is None
    assert loaded.card.parameters == sum(p.numel() for p in loaded.model.parameters())
    embedding = loaded.model.get_input_embeddings().get_parameter("weight")
    assert loaded.card.embedding_share == embedding.numel() / loaded.card.parameters
    assert loaded.tokenizer("abc").input_ids[0] == 1


def test_identity_needs_no_loading_and_does_not_depend_on_the_dtype(tiny_folder: Path) -> None:
    identity, loaded = identify(str(tiny_folder)), load(str(tiny_folder), dtype=torch.bfloat16)

    assert loaded.model.dtype == torch.bfloat16
    assert (identity.sha256, identity.card) == (loaded.sha256, loaded.card)


def test_a_licence_is_read_from_the_model_card(tiny_folder: Path) -> None:
    (tiny_folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")

    assert identify(str(tiny_folder)).card.licence == "apache-2.0"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(tiny_folder: Path, value: float) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    weight = load_file(tiny_folder / "model.safetensors")[name]
    weight[3, 4] = value
    change_weights(tiny_folder, name, weight)

    assert f"1 of {weight.numel()} weights of {name} are not finite" in refusal(tiny_folder)


def test_a_missing_weight_is_never_made_up(tiny_folder: Path) -> None:
    change_weights(tiny_folder, "model.layers.0.self_attn.o_proj.weight", None)

    assert "lacks 1 weights, the first model.layers.0.self_attn.o_proj.weight" in refusal(tiny_folder)


def test_a_weight_of_another_shape_is_refused(tiny_folder: Path) -> None:
    change_weights(tiny_folder, "model.norm.weight", torch.ones(7))

    assert "cannot be loaded" in refusal(tiny_folder)


def test_a_truncated_file_is_refused(tiny_folder: Path) -> None:
    file = tiny_folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])

    assert "truncated" in refusal(tiny_folder)


def test_a_folder_without_config_is_refused(tiny_folder: Path) -> None:
    (tiny_folder / "config.json").unlink()

    assert "has no config.json" in refusal(tiny_folder)


def test_a_folder_without_tokenizer_is_refused(tiny_folder: Path) -> None:
    (tiny_folder / "tokenizer.json").unlink()
    (tiny_folder / "tokenizer_config.json").unlink()

    assert "has no tokenizer" in refusal(tiny_folder)


def test_pickled_weights_are_refused(tiny_folder: Path) -> None:
    (tiny_folder / "model.safetensors").rename(tiny_folder / "pytorch_model.bin")

    assert "only pickled weights (pytorch_model.bin)" in refusal(tiny_folder)


@pytest.mark.parametrize(
    ("model_type", "architecture"),
    [("t5", "T5ForConditionalGeneration"), ("bert", "BertForMaskedLM"), ("vit", "ViTForImageClassification")],
)
def test_a_model_that_is_not_decoder_only_is_named(tiny_folder: Path, model_type: str, architecture: str) -> None:
    (tiny_folder / "config.json").write_text(
        json.dumps(
            {
                "model_type": model_type,
                "architectures": [architecture],
                "is_encoder_decoder": model_type == "t5",
            }
        )
    )

    assert f"{architecture} in {tiny_folder} is not a decoder-only language model" in refusal(tiny_folder)


def test_code_beside_a_model_is_never_run(tiny_folder: Path) -> None:
    (tiny_folder / "evil.py").write_text(f"open({str(tiny_folder / 'ran')!r}, 'w')\n")
    change_config(tiny_folder, model_type="evil", auto_map={"AutoConfig": "evil.Config"})

    assert "code in a model's folder is never run" in refusal(tiny_folder)
    assert not (tiny_folder / "ran").exists()
