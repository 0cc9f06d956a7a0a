"""Which files below a folder are its images: one rule for training, prediction and patterns."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vpt.data.images import SUFFIXES
from vpt.errors import DataError
from vpt.registry import nearest

_SYSTEM_FOLDERS = frozenset(
    {"@eadir", "__macosx", "#recycle", "@recycle", "$recycle.bin", "lost+found"}
    | {"system volume information", "__pycache__"}
)
_SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini"})
_SYSTEM = _SYSTEM_FOLDERS | _SYSTEM_FILES


@dataclass(frozen=True)
class FoundFiles:
    """What lies below a folder.

    Attributes:
        images: sorted by their path below the folder; a link that leads nowhere is among them, so
            that reading it says so.
        left_out: other files, by suffix in lower case ('' for none); without those that systems
            leave behind.
    """

    images: tuple[Path, ...]
    left_out: Mapping[str, int]


def is_skipped(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or made by a system and not by a person."""
    return name.startswith(".") or name.lower() in _SYSTEM


def find_files(folder: Path) -> FoundFiles:
    """The images of a folder and of all folders in it, and how many other files there are.

    Links are followed. A folder that is reached on several ways, or contains itself through a link,
    is read once, at its own place where that is below. Hidden files and folders are left out, and
    those of macOS, Windows, network drives and notebooks (`.ipynb_checkpoints`, `@eaDir`, ...).

    Raises:
        DataError: a folder cannot be read.
    """
    images: list[str] = []
    left_out: Counter[str] = Counter()
    for path in _files_below(folder):
        suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122 (a million times)
        if suffix in SUFFIXES:
            images.append(path)
        else:
            left_out[suffix] += 1
    return FoundFiles(tuple(folder / path for path in sorted(images)), left_out)


def has_images(folder: Path) -> bool:
    """Whether a folder, or a folder in it, holds an image.

    Raises:
        DataError: a folder cannot be read.
    """
    return any(os.path.splitext(path)[1].lower() in SUFFIXES for path in _files_below(folder))  # noqa: PTH122


def left_out_line(left_out: Mapping[str, int]) -> str | None:
    """'5 files of other formats left out: .heic (4), .txt (1)'; None: there are none."""
    count = sum(left_out.values())
    if not count:
        return None
    ranked = sorted(left_out.items(), key=lambda pair: (-pair[1], pair[0]))
    listed = ", ".join(f"{printable(suffix) or 'no suffix'} ({n:,})" for suffix, n in ranked[:8])
    more = ", ..." if len(ranked) > 8 else ""
    return (
        f"{count:,} {'file' if count == 1 else 'files'} of other formats left out: {listed}{more}"
    )


def check_names(images: Sequence[Path], folder: Path) -> None:
    """Refuse images of a data set whose names are no UTF-8: they are written to lists and JSON.

    Raises:
        DataError: naming the first of them.
    """
    wrong = [path for path in images if not is_utf8(str(path.relative_to(folder)))]
    if wrong:
        raise DataError(
            f"{len(wrong):,} image names in '{printable(str(folder))}' are not UTF-8, e.g. "
            f"'{printable(str(wrong[0].relative_to(folder)))}'; rename them (e.g. with convmv), or "
            "unpack the archive again in its own encoding"
        )


def is_utf8(name: str) -> bool:
    """Whether a name from the file system is text; Python stands surrogates in for other bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(name: str) -> str:
    r"""A name from the file system with '\xe9' for each byte that is no UTF-8."""
    return os.fsencode(name).decode(errors="backslashreplace")


def images_named(argument: str) -> FoundFiles:
    """The images that a path or pattern names.

    A file is taken as it is, whatever its name; a folder is searched by `find_files`. Of what a
    pattern finds, files that are no images by their name are left out, folders are searched, and
    nothing hidden is found unless the pattern itself begins with a dot there.

    Raises:
        DataError: see `find_files`.
    """
    path = Path(argument)
    if path.is_dir():
        return find_files(path)
    if os.path.lexists(path):
        return FoundFiles((path,), {})
    if not any(sign in argument for sign in "*?["):
        raise DataError(f"'{argument}': no such file or folder{_near(path)}")
    images: dict[Path, None] = {}
    left_out: Counter[str] = Counter()
    for found in sorted(_matches(argument)):
        if found.is_dir():
            below = find_files(found)
            images |= dict.fromkeys(below.images)
            if "**" not in argument:  # which finds the other files as well
                left_out.update(below.left_out)
        elif found.suffix.lower() in SUFFIXES:
            images[found] = None
        else:
            left_out[found.suffix.lower()] += 1
    return FoundFiles(tuple(images), left_out)


def _near(path: Path) -> str:
    """', did you mean ...?' for what lies beside a path that is not there."""
    if not path.parent.is_dir():
        return f" (nor the folder '{path.parent}')"
    return nearest(path.name, (each.name for each in path.parent.iterdir()))


def _matches(pattern: str) -> Iterator[Path]:
    """What a pattern finds, without system files and what a link that leads in circles repeats."""
    spelled_out = set(Path(pattern).parts)
    circular: dict[Path, bool] = {}
    # Path.glob would find hidden files with '*'.
    for match in glob.iglob(pattern, recursive=True):  # noqa: PTH207
        path = Path(match)
        if any(part.lower() in _SYSTEM for part in set(path.parts) - spelled_out):
            continue
        if path.parent not in circular:
            circular[path.parent] = _is_circular(path.parent)
        if not circular[path.parent]:
            yield path


def _is_circular(folder: Path) -> bool:
    """Whether a folder is entered a second time on the way to itself."""
    seen: set[tuple[int, int]] = set()
    for place in (folder, *folder.parents):
        try:
            state = place.stat()
        except OSError:
            return True  # too many links
        if (state.st_dev, state.st_ino) in seen:
            return True
        seen.add((state.st_dev, state.st_ino))
    return False


def _files_below(folder: Path) -> Iterator[str]:
    """Paths of files below a folder, with slashes, relative to it; each folder is read once."""
    entered: set[tuple[int, int]] = set()
    waiting, linked = [("", folder)], list[tuple[str, Path]]()
    while waiting or linked:
        # Links come last, so that a folder is read at its own place if it has one here.
        below, place = waiting.pop() if waiting else linked.pop(0)
        try:
            state = place.stat()
            if (state.st_dev, state.st_ino) in entered:
                continue
            entered.add((state.st_dev, state.st_ino))
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError as error:
            reason = error.strerror or error
            raise DataError(
                f"the folder '{printable(str(place))}' cannot be read: {reason}"
            ) from error
        for entry in entries:
            if is_skipped(entry.name):
                continue
            path = below + entry.name
            if _is_folder(entry):
                (linked if entry.is_symlink() else waiting).append((f"{path}/", place / entry.name))
            elif _is_file_or_lost(entry):
                yield path


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in circles
        return False


def _is_file_or_lost(entry: os.DirEntry[str]) -> bool:
    """Whether it is a file, or a link to none; pipes, sockets and devices are neither."""
    try:
        return entry.is_file() or (entry.is_symlink() and not Path(entry.path).exists())
    except OSError:
        return True
