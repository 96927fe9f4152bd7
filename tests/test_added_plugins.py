"""The plug-ins that the docs show, installed as a third party's package: they work without an edit to slmquant."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from slmquant import formats, principles
from slmquant.artifact import Artifact
from slmquant.cli import app
from slmquant.formats import native
from slmquant.testing.engine_contract import check_engine
from slmquant.testing.format_contract import check_format
from slmquant.testing.method_contract import check_method
from slmquant.testing.principle_contract import check_principle
from slmquant.testing.task_contract import check_task
from slmquant.testing.tiny import VOCABULARY
from tests.formats.checkpoints import EVEN, rounded
from tests.formats.gguf_models import tokenizer
from tests.principles.planted import Planted

DOCS = Path(__file__).parents[1] / "docs"
PLUGINS = {"format": "dense", "engine": "plain", "task": "copying", "method": "shrunk", "principle": "gptq_halves"}
CHECKPOINT = """
from dataclasses import replace

from slmquant.formats.gptq import FORMAT


class Layout(type(FORMAT.layout)):
    method = "packed-by-others"


FORMAT = replace(FORMAT, name="packed", layout=Layout())
"""
TOKENS = np.random.default_rng(0).integers(VOCABULARY, size=12).tolist()


def example(kind: str) -> str:
    """The longest Python block of a page."""
    page = next(DOCS.glob(f"add-a*-{kind}.md")).read_text(encoding="utf-8")
    blocks: list[str] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    return max(blocks, key=len)


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package on the path whose entry points name the five examples, and a layout of checkpoints."""
    package, info = tmp_path / "site" / "my_package", tmp_path / "site" / "my_package-1.dist-info"
    package.mkdir(parents=True)
    info.mkdir()
    (package / "__init__.py").touch()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1\n")
    lines = []
    examples = [(kind, name, example(kind)) for kind, name in PLUGINS.items()]
    for kind, name, text in [*examples, ("format", "packed", CHECKPOINT)]:
        (package / f"{name}.py").write_text(text)
        lines += [f"[slmquant.{kind}s]", f"{name} = my_package.{name}"]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), *sys.path]))
    yield
    for module in [name for name in sys.modules if name.startswith("my_package")]:
        del sys.modules[module]


@pytest.fixture
def artifact() -> Artifact:
    return Artifact(rounded("W4A16g32", **EVEN), tokenizer(), "tiny", "0" * 64)


@pytest.mark.parametrize("kind", PLUGINS)
def test_an_example_is_short(kind: str) -> None:
    lines = [line for line in example(kind).splitlines() if line.strip()]

    assert len(lines) < 40


def test_the_format_keeps_its_contract(tmp_path: Path, artifact: Artifact) -> None:
    (tmp_path / "work").mkdir()

    assert check_format("dense", artifact, tmp_path / "work").refusal is None


def test_the_engine_keeps_its_contract(tmp_path: Path, artifact: Artifact) -> None:
    folder = native.save(artifact, tmp_path / "model")
    with torch.no_grad():
        reference = artifact.quantized.model(torch.tensor([TOKENS])).logits[0].numpy()

    assert check_engine("plain", folder, TOKENS, reference, divergence=1e-3).refusal is None


def test_torch_opens_a_checkpoint_whose_layout_is_another_packages(tmp_path: Path, artifact: Artifact) -> None:
    folder = formats.load("packed").write(artifact, tmp_path / "model").path
    with torch.no_grad():
        reference = artifact.quantized.model(torch.tensor([TOKENS])).logits[0].numpy()

    assert "packed-by-others" in (folder / "config.json").read_text()
    assert check_engine("torch_eager", folder, TOKENS, reference, divergence=1e-3).refusal is None


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_method_keeps_its_contract(architecture: str) -> None:
    assert check_method("shrunk", architecture, "W4A16g8").refusal is None
    assert "use at least 3" in str(check_method("shrunk", architecture, "W2A16g8").refusal)


def test_the_task_keeps_its_contract(task_context: Callable[[], object]) -> None:
    assert check_task("copying:6", task_context()).refusal is None  # type: ignore[arg-type]


@pytest.fixture
def task_context(tmp_path: Path, artifact: Artifact) -> Callable[[], object]:
    from slmquant.model.computing.modes import FLOAT32
    from slmquant.tasks.common.contract import EvalContext

    return lambda: EvalContext(artifact.quantized.model, FLOAT32, artifact.tokenizer, "0" * 64, tmp_path)


def test_the_principle_keeps_its_contract() -> None:
    cells = Planted()
    cells.cell("rtn/W4A16g64", 0.4)
    cells.cell("gptq/W4A16g64", 0.1)
    (judged,) = cells.judged(principles.load("gptq_halves"))

    assert check_principle("gptq_halves", cells.records, cells.items).refusal is None
    assert judged.verdict == "holds"


def test_they_appear_and_work_on_the_command_line(tmp_path: Path, artifact: Artifact) -> None:
    folder = native.save(artifact, tmp_path / "model")

    listed = CliRunner().invoke(app, ["engines", "--json"])
    exported = CliRunner().invoke(
        app, ["export", str(folder), "--format", "dense", "-o", str(tmp_path / "x.safetensors"), "--json"]
    )

    assert "plain" in json.dumps(json.loads(listed.output))
    assert exported.exit_code == 0, exported.output
    assert json.loads(exported.output)["format"] == "dense"
    assert (tmp_path / "x.safetensors").is_file()
