"""Getting a data set: what its descriptor names is fetched, verified, unpacked, and read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from rich.console import Console

from vpt.data import (
    Descriptor,
    DetectionSplits,
    Splits,
    load_descriptor,
    read_detection,
    read_splits,
)
from vpt.data.published import PublishedFile
from vpt.data.splits import SplitName
from vpt.engine.interrupt import interrupted_at_once
from vpt.engine.progress import Log, bytes_progress, format_bytes
from vpt.errors import ConfigError, DataError, DownloadError
from vpt.registry import nearest
from vpt.runs.outputs import make_folder
from vpt.storage.archive import is_archive, new_folder, remove_unfinished, unpack
from vpt.storage.atomic_file import write_atomic, write_error
from vpt.storage.download import download, verified
from vpt.storage.lock_file import lock, open_lock_file

FILES_JSON = "vpt_files.json"
"""In a data set's folder: which files it was made of, with their SHA-256."""


@dataclass(frozen=True)
class _Fetched:
    """A file that is here, and is what was published as far as that can be checked."""

    file: PublishedFile
    path: Path
    sha256: str


def find_descriptor(name: str) -> Path:
    """The file of a descriptor: by its name in datasets/, or the path itself.

    datasets/ is that of the working directory, or else of the checkout that the package is run
    from.

    Raises:
        ConfigError: there is none; near names are listed.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return path
    known: dict[str, Path] = {}
    checkout = Path(__file__).parents[2]
    # Elsewhere, beside an installed package, 'datasets' is Hugging Face's.
    others = [checkout / "datasets"] if (checkout / "pyproject.toml").is_file() else []
    for folder in (Path("datasets"), *others):
        for file in sorted(folder.rglob("*.yaml")):
            known.setdefault(file.relative_to(folder).with_suffix("").as_posix(), file)
    if name in known:
        return known[name]
    if path.exists():
        return path
    near = nearest(name, known) or f"; known are {', '.join(known) or 'none'}"
    raise ConfigError(f"no descriptor '{name}' in datasets/{near}")


def get_dataset(
    name: str,
    *,
    to: Path | None = None,
    timeout: float = 60.0,
    pause: float = 2.0,
    log: Log,
    console: Console,
) -> None:
    """Have a data set in its folder, as a whole or not at all, and say what is there.

    Downloads go to 'downloads/<folder>/' beside the data set's folder, and stay there. What a
    person put there is verified and taken. Interrupted, the next call goes on.

    Args:
        name: see `find_descriptor`.
        to: the data set's folder; the descriptor's root if None.
        timeout: seconds that a server may be silent or slower than 1 kB/s.
        pause: seconds before the second attempt at an address.
        log: takes lines.
        console: where progress is drawn on a terminal.

    Raises:
        DataError: it cannot be fetched, in one line that says what a person can do.
        Interrupted: by a signal; what has come is kept.
    """
    if not 0 < timeout <= 86_400:
        raise ConfigError(f"timeout {timeout}: give seconds, at most a day")
    descriptor = load_descriptor(find_descriptor(name))
    root = to or descriptor.root
    if not descriptor.files or root is None:
        raise DataError(_nothing_to_fetch(descriptor))
    if root.name in ("", ".."):
        raise DataError(f"'{root}' is no folder of its own; name one with --to")
    if _is_filled(root):
        log(f"nothing to fetch: {_complete(descriptor, root)}")
        return
    downloads = root.parent / "downloads" / root.name
    make_folder(downloads)
    with (
        _alone(downloads),
        interrupted_at_once(
            "stopped by {signal}; what has come is kept, the same command goes on from there"
        ),
    ):
        remove_unfinished(root)
        _refuse_missing(descriptor, downloads)
        fetched = _fetch_all(descriptor, downloads, timeout, pause, log, console)
        with new_folder(root) as folder:
            _fill(folder, fetched, log)
            summary = _as_expected(descriptor, folder, root)
    log(summary)
    log(f"the downloads in {downloads}/ may be removed")
    if to is not None and to != descriptor.root:
        log(f"use them with data.root={to}")


def _nothing_to_fetch(descriptor: Descriptor) -> str:
    if descriptor.format == "sklearn_digits":
        return f"'{descriptor.name}' comes with scikit-learn; there is nothing to fetch"
    way = descriptor.how_to_get or "put the data into its folder ('root')"
    return f"'{descriptor.name}' cannot be fetched by this command; to get it: {way}"


def _is_filled(root: Path) -> bool:
    if root.exists() and not root.is_dir():
        raise DataError(f"{root} is a file; move it away, or name another folder with --to")
    return root.is_dir() and any(root.iterdir())


def _complete(descriptor: Descriptor, root: Path) -> str:
    """What is in a folder that has its name, in one line, or a way out."""
    try:
        return _summary(descriptor, root, root)
    except DataError as error:
        raise DataError(
            f"'{root}' is there but not complete: {_without_hint(error)}; move it away (or remove "
            "it) and run this again, or name another folder with --to"
        ) from error


def _as_expected(descriptor: Descriptor, folder: Path, root: Path) -> str:
    """What is in a folder that will be called `root`, in one line."""
    try:
        return _summary(descriptor, folder, root)
    except DataError as error:
        raise DataError(
            f"what was fetched of '{descriptor.name}' is not as expected: {_without_hint(error)}"
        ) from error


def _without_hint(error: DataError) -> str:
    """Without what to download: that was just done."""
    return str(error).partition("; to get them: ")[0]


def _summary(descriptor: Descriptor, folder: Path, root: Path) -> str:
    splits: DetectionSplits | Splits
    if descriptor.holds_boxes:
        splits = read_detection(descriptor, folder)
    else:
        splits = read_splits(descriptor, folder)
    counts = [
        f"{name} {len(split.samples):,}"
        for name in get_args(SplitName)
        if (split := splits.get(name)) is not None
    ]
    classes = f"{len(splits.class_names):,} classes"
    return f"{descriptor.name} is in {root}: {classes}; images: {', '.join(counts)}"


@contextmanager
def _alone(downloads: Path) -> Iterator[None]:
    """Only one call at a time writes to a folder of downloads; the kernel frees the lock."""
    descriptor = open_lock_file(downloads / ".lock")
    try:
        try:
            lock(descriptor, wait=False)
        except BlockingIOError as error:
            raise DataError(f"another command is fetching into {downloads}; wait for it") from error
        except OSError as error:
            raise DataError(f"{downloads} cannot be locked: {error.strerror}") from error
        yield
    finally:
        os.close(descriptor)


def _by_hand(descriptor: Descriptor, files: list[PublishedFile], downloads: Path) -> str:
    """What a person can do about files that no program gets."""
    pages = dict.fromkeys(file.page or descriptor.source or "its publisher" for file in files)
    names = ", ".join(file.file_name for file in files)
    them = "it" if len(files) == 1 else "them"
    return (
        f"get {names} by hand from {' and '.join(pages)}, put {them} into {downloads}/, and run "
        "the same command again"
    )


def _refuse_missing(descriptor: Descriptor, downloads: Path) -> None:
    """Before anything is fetched: what only a person can get must be there."""
    missing = [
        file
        for file in descriptor.files
        if not file.urls and not (downloads / file.file_name).exists()
    ]
    if missing:
        raise DownloadError(
            f"'{descriptor.name}' is not offered for download by programs; "
            f"{_by_hand(descriptor, missing, downloads)}"
        )


def _fetch_all(
    descriptor: Descriptor,
    downloads: Path,
    timeout: float,
    pause: float,
    log: Log,
    console: Console,
) -> list[_Fetched]:
    """All files of a data set; one that fails does not keep the others from coming."""
    fetched, failed, reasons = [], [], []
    for file in descriptor.files:
        path = downloads / file.file_name
        try:
            fetched.append(_fetch(file, path, timeout, pause, log, console))
        except DownloadError as error:
            if path.exists():  # a wrong file, put there by hand
                raise
            failed.append(file)
            reasons.append(f"{file.file_name}: {error}")
    if failed:
        raise DownloadError(f"{'; '.join(reasons)}; {_by_hand(descriptor, failed, downloads)}")
    return fetched


def _fetch(
    file: PublishedFile, path: Path, timeout: float, pause: float, log: Log, console: Console
) -> _Fetched:
    if path.exists():
        log(f"{path} is there already, verifying it")
        sha256 = verified(path, file.remote)
    else:
        size = f" ({format_bytes(file.size)})" if file.size else ""
        log(f"fetching {file.file_name}{size} from {file.urls[0]}")
        with bytes_progress(file.file_name, console, log) as progress:
            sha256 = download(file.remote, path, timeout=timeout, pause=pause, progress=progress)
    if file.checksum is None:
        log(f"no checksum of {file.file_name} was published; it has sha256:{sha256}")
    return _Fetched(file, path, sha256)


def _fill(folder: Path, fetched: list[_Fetched], log: Log) -> None:
    """Unpack or copy all files into a data set's folder, and write which they were."""
    for each in fetched:
        target = folder / each.file.into
        make_folder(target)
        if is_archive(each.file.file_name):
            log(f"unpacking {each.path}")
            unpack(each.path, target, take=each.file.take)
            continue
        copy = target / each.file.file_name
        if copy.exists():
            raise DataError(f"{each.file.file_name} is in an archive too; which is meant?")
        try:
            shutil.copyfile(each.path, copy)
        except OSError as error:
            raise write_error(copy, error, each.path.stat().st_size) from error
    record = [
        {
            "name": each.file.file_name,
            "urls": list(each.file.urls),
            "sha256": each.sha256,
            "verified": each.file.checksum,
        }
        for each in fetched
    ]
    write_atomic(folder / FILES_JSON, [(json.dumps(record, indent=2) + "\n").encode()])
