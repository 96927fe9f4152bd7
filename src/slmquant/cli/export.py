"""`slmquant export`: write a quantized model in another engine's format."""

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
    MaxBytesOption,
    MixtureOption,
    SamplesOption,
    SeedOption,
    SeqLenOption,
    calibration,
    chosen_scheme,
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
    from slmquant.mixing.choose import Choice
    from slmquant.schemes import Scheme
    from slmquant.store.record import CalibrationSpec


METHOD, SCHEME = "gptq", "W4A16g32"


def command(
    model: Annotated[
        str, typer.Argument(help="Model source, or a folder written by `slmquant quantize`.", metavar="MODEL")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="File or folder to write.")],
    format_: Annotated[str, typer.Option("--format", "-f", help="Output format.")] = "gguf",
    method: Annotated[
        str | None, typer.Option(help="Method to quantize a model source with.", show_default=METHOD)
    ] = None,
    scheme: Annotated[
        str | None, typer.Option(help="Scheme to quantize a model source to.", show_default=SCHEME)
    ] = None,
    mixture: MixtureOption = None,
    max_bytes: MaxBytesOption = None,
    otherwise: Annotated[
        str | None, typer.Option(help="The format's type to fall back on for weights that it cannot store as asked.")
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(help="Also write a folder in slmquant's own format, for `bench-engine --reference`."),
    ] = None,
    any_tokenization: Annotated[
        bool, typer.Option("--any-tokenization", help="Write the file even if its engine tokenizes text differently.")
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
    """Quantize a model and write it for another engine; every weight not stored as asked is listed.

    Examples:
        slmquant export smollm2-135m-instruct --method gptq --scheme W4A16g32 --format gguf -o model.gguf

        slmquant export smollm2-gptq --format onnx -o model-onnx
    """
    from slmquant import api, formats
    from slmquant.cli._mixture import chosen_for
    from slmquant.files import check_output
    from slmquant.formats.common.contract import accept_any_tokenization, check_installed
    from slmquant.formats.native.folder import is_native
    from slmquant.model.sources.load import load
    from slmquant.model.sources.resolve import place_of

    if max_bytes is not None and format_ not in ("gguf", "native"):
        raise typer.BadParameter(
            f"--max-bytes {max_bytes} is the size of a GGUF file, and --format is {format_}; use --scheme",
            param_hint="--max-bytes",
        )
    fmt = formats.load(format_)  # refuse a wrong name before anything is quantized
    if any_tokenization:
        fmt = accept_any_tokenization(fmt)
    ours = is_native if format_ == "native" else None
    check_output(output, not fmt.suffix, ours, overwrite, place_of(model))
    if keep is not None:
        check_output(keep, True, is_native, overwrite, place_of(model))
    spec = calibration(corpus, samples, seq_len, seed, data)
    given = [method, scheme, mixture, max_bytes]
    asked = chosen_scheme(scheme, mixture, SCHEME, max_bytes)
    numbers: Scheme | Choice
    with progress_bar(quiet) as progress:
        check_installed(format_, fmt.extra)
        artifact = _opened(model, any(option is not None for option in given))
        if artifact is None:
            least = 0 if isinstance(asked, int) else api.least_bytes(model, asked)
            check_output(output, not fmt.suffix, ours, overwrite, place_of(model), least)
            loaded = None
            if isinstance(asked, int):  # choosing writes a GGUF file as a rehearsal
                loaded = load(model, progress=progress, mapped=False)
                numbers = chosen_for(
                    asked, model, method or METHOD, spec, budget.value, data, progress, quiet, loaded=loaded
                )
            else:
                _rehearse(fmt, format_, model, method or METHOD, numbers := asked, otherwise, spec, data)
            artifact = api.quantize(
                model, method or METHOD, numbers,
                calibration=spec, seed=spec.seed, budget=budget.value, data_dir=data, progress=progress,
                loaded=loaded,
            )  # fmt: skip
    if keep is not None:
        artifact.save(keep, overwrite=overwrite)
    written = fmt.write(artifact, output, otherwise)
    if json:
        print_json(_facts(written, artifact))
    elif not quiet:
        for note in artifact.quantized.notes:
            tell(note)
        _print(written, fmt.title)


def _opened(model: str, quantizing: bool) -> Artifact | None:
    """The quantized model of a folder that slmquant wrote; None if `model` is a source that is not quantized.

    Raises:
        typer.BadParameter: It is quantized already, and options say how to quantize it.
    """
    from slmquant import api
    from slmquant.formats.native.folder import is_native

    folder = Path(model).expanduser()
    if not is_native(folder):
        return None
    if quantizing:
        raise typer.BadParameter(
            f"{model} is quantized already; drop --method, --scheme, --mixture and --max-bytes", param_hint="MODEL"
        )
    return api.open_artifact(folder)


def _rehearse(
    fmt: Format,
    name: str,
    source: str,
    method: str,
    scheme: Scheme,
    otherwise: str | None,
    spec: CalibrationSpec,
    data: Path | None,
) -> None:
    """Refuse what the format cannot hold, before anything is calibrated or learned.

    Architecture and number format usually decide that, so weights rounded to nearest, in seconds, fit if those of any
    method do. What only the method adds (rotations at run time, branches) is refused at the end.

    Raises:
        RefusedError: As for `Format.write`.
        UnknownNameError: The format has no type `otherwise`.
    """
    from slmquant import api, methods
    from slmquant.errors import RefusedError
    from slmquant.formats.common.contract import settle

    recipe = methods.load(method)
    if recipe.refusal(scheme) is not None or not recipe.looks_at_data(scheme):
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
    """Print what the file holds, and every weight that is not stored as asked."""
    print_table(
        f"{written.path}: {title}, {written.stored_bytes / 1e6:.1f} MB",
        ("stored as", "asked for", "weights", "share", "MB", "exact codes"),
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
    """Weights that are stored in the same type.

    Attributes:
        stored: The format's name of the type.
        asked: Type that the scheme asked for.
        weights: Number of weight tensors.
        share: Their share of all elements, 0 to 1.
        stored_bytes: Bytes that they take.
        exact: Whether the file holds the very codes that were evaluated.
    """

    stored: str
    asked: str
    weights: int
    share: float
    stored_bytes: int
    exact: bool


def _summary(placements: Sequence[Placement]) -> list[_Kind]:
    """Kinds of weights, by falling share."""
    total = sum(each.parameters for each in placements)
    kinds = []
    for stored, asked, exact in dict.fromkeys((p.stored_as, p.requested, p.exact) for p in placements):
        alike = [p for p in placements if (p.stored_as, p.requested, p.exact) == (stored, asked, exact)]
        share = sum(p.parameters for p in alike) / total
        kinds.append(_Kind(stored, asked, len(alike), share, sum(p.stored_bytes for p in alike), exact))
    return sorted(kinds, key=lambda kind: -kind.share)
