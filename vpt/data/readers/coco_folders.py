"""Where COCO's annotation files and their images lie: COCO's own download, and exports of tools."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from vpt.data.descriptor import AUTOMATIC_CUT, Descriptor, ImageFolders, SplitSources
from vpt.data.image_files import has_images
from vpt.data.images import SUFFIXES
from vpt.data.recognising import question, recognised, split_of_name
from vpt.data.splits import SPLIT_NAMES, SplitName

_HEAD = 4_000_000  # bytes in which an annotation file shows what it is
_SAMPLE = 5  # images whose files are looked for
_OTHER_KINDS = ("captions", "person_keypoints", "stuff", "panoptic", "image_info", "lvis_")
_IMAGE_FOLDERS = ("images", "data", "JPEGImages", "imgs", "img")
_KEYS = re.compile(rb'"(images|annotations|categories)"\s*:')
_FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')


@dataclass(frozen=True)
class _Annotations:
    """An annotation file, some of the images in it, and the split that its name says."""

    path: Path
    images: tuple[str, ...]
    split: SplitName | None


def recognise(folder: Path) -> Descriptor | None:
    """A descriptor of a folder with COCO's annotation files; None: it has none.

    annotations/*.json or *.json with the images in a folder named after the split, in images/ or
    beside them; or one file in each split's folder, as Roboflow exports it.

    Raises:
        DataError: it is not certain which file or folder is meant; with a descriptor to change.
    """
    found = _annotation_files(folder)
    if not found:
        return None
    places: dict[SplitName, _Annotations] = {}
    for each in found:
        split = each.split or ("train" if len(found) == 1 else None)
        if split is None or split in places:
            raise question(folder, _why(folder, found), [_descriptor(folder, _guess(found))])
        places[split] = each
    return _descriptor(folder, {split: places[split] for split in SPLIT_NAMES if split in places})


def _descriptor(folder: Path, places: dict[SplitName, _Annotations]) -> Descriptor:
    images = {split: _images_of(folder, split, each) for split, each in places.items()}
    sources: dict[str, Any] = {split: _below(folder, each.path) for split, each in places.items()}
    texts = [f"{_below(folder, e.path)} with {images[n] or '.'}/" for n, e in places.items()]
    seen = f"boxes in COCO's format ({', '.join(texts)})"
    if "val" not in sources and "train" in sources:
        sources["val"] = AUTOMATIC_CUT
        seen += f"; without validation images, {AUTOMATIC_CUT.fraction:.0%} of train are held out"
    one = set(images.values())
    return recognised(
        folder,
        seen,
        format="coco",
        images=(one.pop() or None) if len(one) == 1 else ImageFolders(**images),
        splits=SplitSources(**sources),
    )


def _annotation_files(folder: Path) -> list[_Annotations]:
    """Those in the first of the usual places that has any."""
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    split_folders = [path for path in folders if split_of_name(path.name)]
    own = [path for path in folders if path.name.lower() in ("annotations", "annotation", "labels")]
    for places, by_folder in (([*own], False), (split_folders, True), ([folder], False)):
        found = []
        for place in places:
            for path in sorted(place.glob("*.json")):
                if (images := _listed(path)) is not None:
                    split = split_of_name(place.name) if by_folder else _split_of_file(path)
                    found.append(_Annotations(path, images, split))
        instances = [each for each in found if each.path.name.startswith("instances")]
        if found:
            return instances or found
    return []


def _split_of_file(path: Path) -> SplitName | None:
    """The split in a file's name: 'instances_train2017.json', 'val.json', 'test_coco.json'."""
    words = re.split(r"[-_. ]", path.stem)
    found = {split for word in words if (split := split_of_name(word))}
    return found.pop() if len(found) == 1 else None


def _listed(path: Path) -> tuple[str, ...] | None:
    """Some images of an annotation file; None where it holds no boxes."""
    if path.name.startswith(_OTHER_KINDS):
        return None
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
            file.seek(max(0, path.stat().st_size - _HEAD))
            tail = file.read(_HEAD)
    except OSError:
        return None
    names = _names_in(head) or _names_in(tail)
    keys = {each[1] for part in (head, tail) for each in _KEYS.finditer(part)}
    if b"images" not in keys and path.name != "_annotations.coco.json":
        return None
    if b"annotations" not in keys and _split_of_file(path) == "test":
        return None
    return names


def _names_in(part: bytes) -> tuple[str, ...]:
    """Some file names in a part of a JSON file, with slashes."""
    found = []
    for each in islice(_FILE_NAME.finditer(part), _SAMPLE):
        try:
            found.append(str(json.loads(each[1])).replace("\\", "/"))
        except ValueError:  # no UTF-8: its reader says so
            continue
    return tuple(found)


def _images_of(folder: Path, split: SplitName, file: _Annotations) -> str:
    """The folder, relative to the root, in which the images of a file are; '' is the root.

    Where none of the images that were looked for is found, the first usual place with images.
    """
    beside = file.path.parent
    named = re.sub(r"^(instances|coco)_", "", file.path.stem)
    places = [folder / "images", folder, beside / "images"]
    candidates = [
        *([beside] if split_of_name(beside.name) else []),
        *(place / named for place in places),
        *(path for place in places for path in _subfolders(place) if _is_split(path, split)),
        *(place / name for place in (beside, folder) for name in _IMAGE_FOLDERS),
        folder,
        beside,
    ]
    for candidate in dict.fromkeys(candidates):
        if candidate.is_dir() and _holds(candidate, file.images):
            return _below(folder, candidate)
    usual = (each for each in candidates if each.is_dir() and has_images(each))
    return _below(folder, next(usual, folder))


def _holds(folder: Path, images: tuple[str, ...]) -> bool:
    """Whether most of some images are in a folder."""
    there = sum((folder / name).is_file() for name in images)
    if not images:
        return any(path.suffix.lower() in SUFFIXES for path in folder.iterdir())
    return 2 * there > len(images)


def _is_split(path: Path, split: SplitName) -> bool:
    return split_of_name(path.name) == split


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _why(folder: Path, found: list[_Annotations]) -> str:
    names = ", ".join(_below(folder, each.path) for each in found[:6])
    return f"has annotation files of which it is not clear what they are of ({names})"


def _guess(found: list[_Annotations]) -> dict[SplitName, _Annotations]:
    """The likeliest files, for a descriptor to change."""
    places: dict[SplitName, _Annotations] = {}
    for each in found:
        if each.split is not None:
            places[each.split] = each  # the last by name: train2017, not train2014
    if "train" not in places:
        places["train"] = next((each for each in found if each.split is None), found[0])
    return {split: places[split] for split in SPLIT_NAMES if split in places}


def _below(folder: Path, path: Path) -> str:
    text = path.relative_to(folder).as_posix()
    return "" if text == "." else text
