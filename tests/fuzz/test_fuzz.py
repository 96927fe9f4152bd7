"""300 inputs: no traceback, an answer in seconds, and no success that differs from the sound one without saying so."""

from __future__ import annotations

import functools
import json
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from slmquant import api
from slmquant.formats.native.manifest import MANIFEST
from tests.fuzz import mutations
from tests.fuzz.conftest import EXIT_CODES, WORDS, Slmquant

pytestmark = pytest.mark.fuzz

TOKENS = torch.tensor([[1, 5, 9, 3, 12, 7, 4, 20, 11, 6]])
TEXT = "the cat saw a small blue house near the river"


def seeds(count: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("seed", range(count))


def spoilt(source: Path, target: Path, file: str, change: Callable[[bytes, random.Random], bytes], seed: int) -> None:
    """A copy of a folder with one file changed."""
    shutil.copytree(source, target)
    content = (target / file).read_bytes()
    rng = random.Random(f"{file} {seed}")
    changed = change(content, rng)
    while changed == content:
        changed = change(content, rng)
    (target / file).write_bytes(changed)


def quantized(slmquant: Slmquant, source: str, output: Path, method: str = "none", scheme: str = "W16A16") -> bool:
    """Whether a model could be quantized; full precision by default, so that what is computed can be foretold."""
    return slmquant("quantize", source, "--method", method, "--scheme", scheme, "-o", str(output), "-q").code == 0


@torch.no_grad()
def computes_what_transformers_does(source: Path, artifact: Path) -> bool:
    """Whether an artifact of full precision gives the logits of the very files that it was made from."""
    ours = api.open_artifact(artifact)
    loaded: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, output_loading_info=True)
    theirs, report = loaded
    assert not report["missing_keys"] and not report["mismatched_keys"]
    for parameter in theirs.parameters():
        parameter.copy_(parameter.bfloat16().float())  # as an artifact stores what is not quantized
    return torch.equal(ours.quantized.model(TOKENS).logits, theirs(TOKENS).logits)


@functools.cache
@torch.no_grad()
def sound_logits(native: Path) -> torch.Tensor:
    logits: torch.Tensor = api.open_artifact(native).quantized.model(TOKENS).logits
    return logits


@seeds(45)
def test_a_config_that_changed(seed: int, sound: Path, tmp_path: Path, slmquant: Slmquant) -> None:
    spoilt(sound / "model", tmp_path / "m", "config.json", mutations.of_json, seed)
    if quantized(slmquant, "./m", tmp_path / "out"):
        assert computes_what_transformers_does(tmp_path / "m", tmp_path / "out")


@seeds(25)
def test_a_tokenizer_that_changed(seed: int, sound: Path, tmp_path: Path, slmquant: Slmquant) -> None:
    file = ("tokenizer.json", "tokenizer_config.json")[seed % 2]
    spoilt(sound / "model", tmp_path / "m", file, mutations.of_json, seed)
    if quantized(slmquant, "./m", tmp_path / "out"):
        ours, theirs = (AutoTokenizer.from_pretrained(tmp_path / each) for each in ("out", "m"))
        assert ours(TEXT)["input_ids"] == theirs(TEXT)["input_ids"]


@seeds(35)
def test_weights_that_changed(seed: int, sound: Path, tmp_path: Path, slmquant: Slmquant) -> None:
    source = ("model", "pulled")[seed % 2]
    before = json.loads((sound / "native" / MANIFEST).read_text())["source_sha256"]
    spoilt(sound / source, tmp_path / "m", "model.safetensors", mutations.of_safetensors, seed)
    if quantized(slmquant, "./m", tmp_path / "out"):
        manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
        same = (tmp_path / "out" / "model.safetensors").read_bytes() == _clean(sound, slmquant, tmp_path)
        assert same or (manifest["source_sha256"] != before and source == "model")
        assert computes_what_transformers_does(tmp_path / "m", tmp_path / "out")


def _clean(sound: Path, slmquant: Slmquant, tmp_path: Path) -> bytes:
    """What the sound model becomes."""
    assert quantized(slmquant, str(sound / "model"), tmp_path / "clean")
    return (tmp_path / "clean" / "model.safetensors").read_bytes()


@seeds(30)
def test_an_artifact_whose_manifest_or_companions_changed(
    seed: int, sound: Path, tmp_path: Path, slmquant: Slmquant
) -> None:
    file = (MANIFEST, MANIFEST, "config.json", "generation_config.json", "tokenizer.json")[seed % 5]
    spoilt(sound / "native", tmp_path / "n", file, mutations.of_json, seed)
    assert _is_refused_or_as_it_was(slmquant, sound, tmp_path)


@seeds(30)
def test_an_artifact_whose_weights_changed(seed: int, sound: Path, tmp_path: Path, slmquant: Slmquant) -> None:
    spoilt(sound / "native", tmp_path / "n", "model.safetensors", mutations.of_safetensors, seed)
    assert _is_refused_or_as_it_was(slmquant, sound, tmp_path)


@torch.no_grad()
def _is_refused_or_as_it_was(slmquant: Slmquant, sound: Path, tmp_path: Path) -> bool:
    """Whether it is refused, or computes what the sound one computes under the same scheme."""
    if slmquant("export", "./n", "-f", "native", "-o", str(tmp_path / "out"), "-q").code != 0:
        return True
    ours = api.open_artifact(tmp_path / "out").quantized
    same = torch.equal(ours.model(TOKENS).logits, sound_logits(sound / "native"))
    return same and str(ours.scheme) == "W4A16g32"


@seeds(35)
def test_a_gguf_file_that_changed(seed: int, sound: Path, tmp_path: Path, slmquant: Slmquant) -> None:
    content = (sound / "model.gguf").read_bytes()
    (tmp_path / "m.gguf").write_bytes(mutations.of_gguf(content, random.Random(seed)))
    if quantized(slmquant, "m.gguf", tmp_path / "out"):
        manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
        assert manifest["source_sha256"] and api.open_artifact(tmp_path / "out").tokenizer(TEXT)["input_ids"]


PLAN = {
    "models": ["no-such-model"], "methods": ["rtn", "gptq"], "schemes": ["W4A16g64"],
    "tasks": ["wikitext2:2", "piqa:9"],
    "calibration": {"corpus": "wikitext2_train", "num_samples": 8, "seq_len": 64, "seed": 0}, "dtype": "float32",
    "seed": 3, "timeout_s": 9.5, "until_separated": 0.9, "engines": ["torch_eager"], "engine_rounds": 2,
}  # fmt: skip


@seeds(30)
def test_a_plan_that_changed(seed: int, tmp_path: Path, slmquant: Slmquant) -> None:
    (tmp_path / "plan.yaml").write_bytes(mutations.of_json(json.dumps(PLAN).encode(), random.Random(seed)))
    ended = slmquant("bench", "--plan", "plan.yaml", "--store", "s.sqlite", "--report", "r")
    assert ended.code in (2, 3, 4, 5, 6, 9)  # the model is nowhere


@seeds(30)
def test_a_store_whose_rows_changed(seed: int, sound: Path, tmp_path: Path, slmquant: Slmquant) -> None:
    rng = random.Random(seed)
    shutil.copy(sound / "store.sqlite", tmp_path / "s.sqlite")
    with sqlite3.connect(tmp_path / "s.sqlite") as store:
        store.execute("UPDATE records SET record_xxh3 = NULL")  # as of earlier versions: nothing else notices
        row = rng.choice(store.execute("SELECT * FROM records ORDER BY cell_id").fetchall())
        columns = [column[1] for column in store.execute("PRAGMA table_info(records)")]
        names = ", ".join(f"{column} = ?" for column in columns)
        store.execute("PRAGMA ignore_check_constraints = ON")
        try:
            store.execute(f"UPDATE records SET {names} WHERE cell_id = ?", (*mutations.of_row(row, rng), row[0]))
        except sqlite3.IntegrityError:  # the store itself would not take it
            pytest.skip("refused by the store's own constraints")
    store.close()
    command = (["list"], ["report", "-o", "r", "-q"], ["list", "--json"], ["show", "rtn/W4A16g64"])[seed % 4]
    assert slmquant(*command, "--store", "s.sqlite").code in EXIT_CODES


@seeds(20)
def test_text_that_changed(seed: int, sound: Path, tmp_path: Path, slmquant: Slmquant) -> None:
    rng = random.Random(seed)
    text = (sound / "data" / "text" / "wikitext2_train.txt").read_text()
    folder = tmp_path / "data" / "text"
    folder.mkdir(parents=True)
    if seed % 2:
        (folder / "wikitext2_train.txt").write_bytes(mutations.of_text(text, rng))
    else:
        rows = "\n".join(json.dumps({"text": line}) for line in (text[:2000], text[2000:4000], TEXT))
        (folder / "wikitext2_train.jsonl").write_bytes(mutations.of_text(rows, rng))
    ended = slmquant(
        *("quantize", str(sound / "model"), "--method", "gptq", "--scheme", "W4A16g32", "-o", "out", "-q"),
        *("--samples", "2", "--seq-len", "16", "--data", "data"),
    )
    assert ended.code in EXIT_CODES
    assert (ended.code == 0) == Path("out").exists()


LINES = (
    "quantize ./absent --method rtn --scheme W4A16g32 -o out --samples 4 --seq-len 64 --seed 1 --budget fast",
    "export ./absent --format gguf --method rtn --scheme W4A16g32 -o out --otherwise Q8_0",
    "bench absent --methods rtn,gptq --schemes W4A16g64 --tasks wikitext2:2 --timeout 9 --store s.sqlite --report r",
    "report --store s.sqlite --format csv -o r --model m",
    "compare a b --store s.sqlite --until-separated 0.9",
    "chat ./absent --prompt hello --max-tokens 5 --temperature 0.5 --seed 2",
    "methods awq+gptq", "schemes --json", "tasks --corpora", "models --json", "pull absent --from nowhere", "show x/y",
    "list --method gptq --status ok --store s.sqlite", "serve out.gguf --port 8080 --context 64 --engine llamacpp",
    "bench-engine llamacpp absent.gguf --quick",
)  # fmt: skip


@seeds(20)
def test_a_command_line_that_changed(seed: int, slmquant: Slmquant) -> None:
    rng = random.Random(seed)
    words = mutations.of_words(LINES[seed % len(LINES)].split(), rng)

    assert slmquant(*words).code in EXIT_CODES


def test_the_sound_inputs_are_accepted(sound: Path, tmp_path: Path, slmquant: Slmquant) -> None:
    """Else every input above might be refused for one and the same reason."""
    for source in ("model", "pulled", "model.gguf"):
        assert quantized(slmquant, str(sound / source), tmp_path / f"out-{source}")
    assert computes_what_transformers_does(sound / "model", tmp_path / "out-model")
    assert slmquant("export", str(sound / "native"), "-f", "native", "-o", "again", "-q").code == 0
    assert slmquant("report", "--store", str(sound / "store.sqlite"), "-o", "r", "-q").code == 0
    assert slmquant(
        *("quantize", str(sound / "model"), "--method", "gptq", "--scheme", "W4A16g32", "-o", "out-gptq", "-q"),
        *("--samples", "2", "--seq-len", "16", "--data", str(sound / "data")),
    ).code == 0  # fmt: skip
    assert set(WORDS)
