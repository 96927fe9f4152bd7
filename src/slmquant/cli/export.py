"""`slmquant export`: a quantized model as a file that another engine runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slmquant.cli._calibration import (
    Budget,
    BudgetOption,
    CorpusOption,
    SamplesOption,
    SeedOption,
    SeqLenOption,
    calibration,
)
from slmquant.cli._output import (
    DataOption,
    JsonOption,
    OverwriteOption,
    QuietOption,
    print_json,
    print_table,
    progress_bar,
    say,
    tell,
)

if TYPE_CHECKING:
    from slmquant.api import Artifact
    from slmquant.formats.common.contract import Format, Placement, Written
    from slmquant.progress import Progress
    from slmquant.store.record import CalibrationSpec


METHOD, SCHEME = "gptq", "W4A16g32"


def command(
    model: Annotated[
        str, typer.Argument(help="A model source, or a folder that `slmquant quantize` wrote.", metavar="MODEL")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="File or folder to write.")],
    format_: Annotated[str, typer.Option("--format", "-f", help="How it shall lie on disk.")] = "gguf",
    method: Annotated[
        str | None, typer.Option(help="Quantize a model source with this method.", show_default=METHOD)
    ] = None,
    scheme: Annotated[
        str | None, typer.Option(help="Quantize a model source with this scheme.", show_default=SCHEME)
    ] = None,
    otherwise: Annotated[
        str | None, typer.Option(help="What to store weights as that cannot be stored as asked, in the format's words.")
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(help="Write slmquant's own folder, too: what `bench-engine --reference` compares with."),
    ] = None,
    any_tokenization: Annotated[
        bool, typer.Option("--any-tokenization", help="Write a file although its engine cuts text into other tokens.")
    ] = False,
    corpus: CorpusOption = None,
    samples: SamplesOption = 128,
    seq_len: SeqLenOption = 512,
    seed: SeedOption = 0,
    budget: BudgetOption = Budget.FAST,
    data: DataOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Quantize a model and write it for another engine; nothing is stored otherwise than asked without being named.

    Examples:
        slmquant export smollm2-135m-instruct --method gptq --scheme W4A16g32 --format gguf -o model.gguf

        slmquant export smollm2-gptq --format onnx -o model-onnx
    """
    from slmquant import api, formats
    from slmquant.files import check_output
    from slmquant.formats.common.contract import accept_any_tokenization, check_installed
    from slmquant.formats.native.folder import is_native
    from slmquant.model.sources.resolve import place_of

    fmt = formats.load(format_)  # a wrong name is told before anything is quantized
    if any_tokenization:
        fmt = accept_any_tokenization(fmt)
    ours = is_native if format_ == "native" else None
    check_output(output, not fmt.suffix, ours, overwrite, place_of(model))
    if keep is not None:
        check_output(keep, True, is_native, overwrite, place_of(model))
    spec = calibration(corpus, samples, seq_len, seed, data)
    with progress_bar(quiet) as progress:
        check_installed(format_, fmt.extra)
        if not is_native(Path(model).expanduser()):
            least = api.least_bytes(model, scheme or SCHEME)
            check_output(output, not fmt.suffix, ours, overwrite, place_of(model), least)
            _rehearse(fmt, format_, model, method or METHOD, scheme or SCHEME, otherwise, spec, data)
        artifact = _artifact(model, method, scheme, spec, budget, data, progress)
    if keep is not None:
        artifact.save(keep, overwrite=overwrite)
    written = fmt.write(artifact, output, otherwise)
    if json:
        print_json(_facts(written, artifact))
    elif not quiet:
        for note in artifact.quantized.notes:
            tell(note)
        _print(written, fmt.title)


def _rehearse(
    fmt: Format,
    name: str,
    source: str,
    method: str,
    scheme: str,
    otherwise: str | None,
    spec: CalibrationSpec,
    data: Path | None,
) -> None:
    """Refuse, before anything is calibrated or learned, what the format cannot hold.

    Architecture and number formats decide that, as a rule: weights rounded to nearest, in seconds, fit or do not fit
    as those of any method do. What only the method brings (rotations at run time, branches) is told at the end.

    Raises:
        RefusedError: As for `Format.write`.
        UnknownNameError: The format has no type `otherwise`.
    """
    from slmquant import api, methods
    from slmquant.errors import RefusedError
    from slmquant.formats.common.contract import settle
    from slmquant.schemes import parse

    recipe, numbers = methods.load(method), parse(scheme)
    if recipe.refusal(numbers) is not None or not recipe.looks_at_data(numbers):
        return
    nearest = api.quantize(source, "rtn", scheme, calibration=spec, dtype="float32", data_dir=data).quantized
    if (reason := fmt.refusal(nearest)) is not None:
        raise RefusedError(f"{name}: {reason}")
    settle(name, fmt.place(nearest, otherwise), otherwise)


def _facts(written: Written, artifact: Artifact) -> dict[str, object]:
    return {
        "path": str(written.path),
        "format": written.format,
        "method": artifact.quantized.method,
        "scheme": str(artifact.quantized.scheme),
        "stored_bytes": written.stored_bytes,
        "remarks": list(written.remarks),
        "types": [asdict(kind) for kind in _summary(written.placements)],
        "substituted": [_substitution(each) for each in written.placements if each.reason is not None],
    }


def _substitution(placement: Placement) -> dict[str, object]:
    """A placement as JSON, with the keys `asked` and `stored`."""
    keys = {"requested": "asked", "stored_as": "stored"}
    return {keys.get(name, name): value for name, value in asdict(placement).items()}


def _print(written: Written, title: str) -> None:
    """What the file holds, and every weight that is not stored as asked."""
    print_table(
        f"{written.path}: {title}, {written.stored_bytes / 1e6:.1f} MB",
        ("stored as", "asked for", "weights", "share", "MB", "the codes themselves"),
        [
            (
                kind.stored,
                kind.asked,
                str(kind.weights),
                f"{kind.share:.1%}",
                f"{kind.stored_bytes / 1e6:.2f}",
                "yes" if kind.exact else "no",
            )
            for kind in _summary(written.placements)
        ],
    )
    for sentence in written.remarks:
        tell(sentence)
    for each in written.placements:
        if each.reason is not None:
            say(f"{each.name} is {each.stored_as}, not {each.requested}: {each.reason}")


@dataclass(frozen=True)
class _Kind:
    """Weights that are stored alike.

    Attributes:
        stored: The format's name for it.
        asked: What the scheme asked for.
        weights: How many.
        share: Of all elements, 0 to 1.
        stored_bytes: What they take.
        exact: Whether the file says the codes that were evaluated.
    """

    stored: str
    asked: str
    weights: int
    share: float
    stored_bytes: int
    exact: bool


def _summary(placements: Sequence[Placement]) -> list[_Kind]:
    """Kinds in the order of their share."""
    total = sum(each.parameters for each in placements)
    kinds = []
    for stored, asked, exact in dict.fromkeys((p.stored_as, p.requested, p.exact) for p in placements):
        alike = [p for p in placements if (p.stored_as, p.requested, p.exact) == (stored, asked, exact)]
        share = sum(p.parameters for p in alike) / total
        kinds.append(_Kind(stored, asked, len(alike), share, sum(p.stored_bytes for p in alike), exact))
    return sorted(kinds, key=lambda kind: -kind.share)


def _artifact(
    source: str,
    method: str | None,
    scheme: str | None,
    spec: CalibrationSpec,
    budget: Budget,
    data: Path | None,
    progress: Progress,
) -> Artifact:
    """The quantized model: read from its folder, or made now."""
    from slmquant import api
    from slmquant.formats.native.folder import is_native

    folder = Path(source).expanduser()
    if is_native(folder):
        if method is not None or scheme is not None:
            raise typer.BadParameter(f"{source} is quantized already; drop --method and --scheme", param_hint="MODEL")
        return api.open_artifact(folder)
    return api.quantize(
        source,
        method or METHOD,
        scheme or SCHEME,
        calibration=spec,
        seed=spec.seed,
        budget=budget.value,
        data_dir=data,
        progress=progress,
    )
