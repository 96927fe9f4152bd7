"""`slmquant chat`: talk to a quantized model and its original side by side."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slmquant.bounds import LARGEST_SEED, MOST_TOKENS
from slmquant.cli._output import DataOption, QuietOption, console, progress_bar, say, shown, tell

if TYPE_CHECKING:
    from slmquant.api import Artifact
    from slmquant.cli._conversation import Manner, Speaker
    from slmquant.progress import Progress

_NEW = "/new"


def command(
    model: Annotated[
        str, typer.Argument(help="Folder written by `slmquant quantize`, or a model source.", metavar="MODEL")
    ],
    method: Annotated[
        str | None, typer.Option(help="Method to quantize a model source with first.", show_default="rtn")
    ] = None,
    scheme: Annotated[
        str | None, typer.Option(help="Scheme to quantize a model source to first.", show_default="W4A16g64")
    ] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="Answer this one text and exit.")] = None,
    original: Annotated[bool, typer.Option(help="Also let the original model answer.")] = True,
    max_tokens: Annotated[int, typer.Option(min=1, max=MOST_TOKENS, help="Longest answer, in tokens.")] = 200,
    temperature: Annotated[
        float,
        typer.Option(min=0.0, max=100.0, help="Sampling temperature; 0 is greedy (the likeliest token every time)."),
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Sampling seed, the same for both models.")] = 0,
    device: Annotated[str, typer.Option(help="Device: cpu, cuda, ...")] = "cpu",
    data: DataOption = None,
    quiet: QuietOption = False,
) -> None:
    """Talk to a quantized model and its original side by side.

    With a chat template, each model remembers its own conversation, and [bold]/new[/bold] starts another; without
    one, every text is continued on its own. Press Ctrl-D to end; piped input ends with its last line. Both models
    compute in float32, so their speed here does not show how fast the quantized model would be on an engine.

    Examples:
        slmquant chat smollm2-gptq

        slmquant chat smollm2-135m-instruct --method gptq --scheme W3A16g64 --prompt "Why is the sky blue?"
    """
    from slmquant.cli._conversation import Manner
    from slmquant.errors import RefusedError

    with progress_bar(quiet) as progress:
        speakers = _speakers(model, method, scheme, original, device, data, progress)
    manner = Manner(max_tokens, temperature, seed)
    for text in _said(prompt, speakers[0].is_chat):
        if text == _NEW:
            for speaker in speakers:
                speaker.forget()
            continue
        try:
            for speaker in speakers:
                speaker.check(text, manner)  # all before any answers, so that conversations stay equal
            for speaker in speakers:
                _answer(speaker, text, manner)
        except RefusedError as error:  # the conversation is too long; the message says what to do
            if prompt is not None:
                raise
            tell(str(error))


def _speakers(
    source: str,
    method: str | None,
    scheme: str | None,
    original: bool,
    device: str,
    data: Path | None,
    progress: Progress,
) -> list[Speaker]:
    """The quantized model and, if asked for and available, its original; or one unquantized model alone."""
    from slmquant import api
    from slmquant.calib.corpora import calibration_corpus
    from slmquant.cli._conversation import Speaker
    from slmquant.formats.native.folder import MANIFEST
    from slmquant.model.sources.load import load
    from slmquant.store.record import CalibrationSpec

    is_artifact = (Path(source).expanduser() / MANIFEST).is_file()
    wanted = method is not None or scheme is not None
    if is_artifact and wanted:
        raise typer.BadParameter(f"{source} is quantized already; drop --method and --scheme", param_hint="MODEL")
    if not is_artifact and not wanted:
        loaded = load(source, device=device, progress=progress)
        return [Speaker(f"{source}, {loaded.card.provenance}", loaded.model, loaded.tokenizer)]
    if is_artifact:
        artifact = api.open_artifact(Path(source).expanduser(), device=device)
    else:
        artifact = api.quantize(
            source,
            method or "rtn",
            scheme or "W4A16g64",
            calibration=CalibrationSpec(corpus=calibration_corpus(data)),
            dtype="float32",
            device=device,
            data_dir=data,
            progress=progress,
        )
    quantized = artifact.quantized
    name = f"{artifact.source}/{quantized.method}/{quantized.scheme}, {artifact.size.bpw:.2f} bits per weight"
    speakers = [Speaker(name, quantized.model, artifact.tokenizer)]
    if original and (beside := _original(artifact, device, progress)) is not None:
        speakers.append(beside)
    return speakers


def _original(artifact: Artifact, device: str, progress: Progress) -> Speaker | None:
    """The model an artifact was made from; None, with the reason on stderr, if it is not available."""
    from slmquant.cli._conversation import Speaker
    from slmquant.errors import SlmquantError
    from slmquant.model.sources.load import load

    try:
        loaded = load(artifact.source, device=device, progress=progress)
    except SlmquantError as error:
        reason = str(error)
    else:
        if loaded.sha256 == artifact.source_sha256:
            return Speaker(f"{artifact.source}, {loaded.card.provenance}", loaded.model, loaded.tokenizer)
        reason = f"the weights of {artifact.source} have changed since it was quantized"
    tell(f"the original is not shown: {reason}")
    return None


def _said(prompt: str | None, is_chat: bool) -> Iterator[str]:
    """The user's texts: one prompt, or every line that is not empty until the input ends."""
    if prompt is not None:
        yield prompt
        return
    asks = sys.stdin.isatty()
    if asks:
        does = "answers" if is_chat else "continues what you write, as it has no chat template"
        tell(f"The model {does}. Type {_NEW} to start over, Ctrl-D to quit.")
    while True:
        try:
            text = console.input("[bold]you> [/bold]") if asks else input()
        except EOFError:
            return
        if text.strip():
            yield text.strip()


def _answer(speaker: Speaker, text: str, manner: Manner) -> None:
    """Print a speaker's label and its answer, piece by piece."""

    def write(piece: str) -> None:
        say(piece, end="")

    console.print(f"[bold cyan]{shown(speaker.label)}[/bold cyan]", highlight=False, soft_wrap=True)
    speaker.answer(text, manner, write)
    console.print("\n")
