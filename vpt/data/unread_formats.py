"""Annotations of other tools that are known by sight but not read, and what to do about them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vpt.data.image_files import is_skipped

_HEAD = 65_536  # bytes in which a file shows what it is
_MOST_FOLDERS, _MOST_FILES = 20, 20  # that are looked at

# Suffix, words that all are in the beginning of a file, what it is. The first that fits counts.
_KINDS: tuple[tuple[str, tuple[bytes, ...], str], ...] = (
    (".xml", (b"<annotations", b"<image"), "CVAT's own XML"),
    (".xml", (b"<annotations", b"<track"), "CVAT's own XML of a video"),
    (".json", (b'"shapes"', b'"imagePath"'), "labelme's JSON"),
    (".json", (b'"shape_attributes"',), "the JSON of VGG Image Annotator"),
    (".json", (b'"original_width"', b'"from_name"'), "Label Studio's own JSON"),
    (".json", (b'"rectanglelabels"',), "Label Studio's own JSON"),
    (".json", (b'"coordinates"', b'"label"', b'"image"'), "Create ML's JSON"),
    (".csv", (b"xmin", b"ymax"), "a table of boxes"),
    (".tfrecord", (), "TensorFlow's records"),
)


def unread_annotations(folder: Path) -> str | None:
    """A sentence on annotations in a folder, or a folder in it, that are not read; None: none."""
    return next((text for path in _files(folder) if (text := refusal_of(path))), None)


def refusal_of(path: Path) -> str | None:
    """A sentence on a file of annotations that is not read; None: it is none that is known here."""
    what = _kind_of(path)
    if what is None:
        return None
    return (
        f"'{path}' is {what}, which is not read: export the annotations as COCO, PASCAL VOC or "
        "YOLO, or convert them"
    )


def _kind_of(path: Path) -> str | None:
    kinds = [(words, what) for suffix, words, what in _KINDS if path.suffix.lower() == suffix]
    if not kinds:
        return None
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return None
    return next((what for words, what in kinds if all(word in head for word in words)), None)


def _files(folder: Path) -> Iterator[Path]:
    """Files that may be annotations, in a folder and those in it."""
    entries = sorted(entry for entry in folder.iterdir() if not is_skipped(entry.name))
    folders = [entry for entry in entries if entry.is_dir()][:_MOST_FOLDERS]
    suffixes = {suffix for suffix, _, _ in _KINDS}
    for place in (folder, *folders):
        found = (path for path in place.iterdir() if path.suffix.lower() in suffixes)
        yield from sorted(path for path in found if path.is_file())[:_MOST_FILES]
