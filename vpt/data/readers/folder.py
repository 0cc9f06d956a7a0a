"""Folders of images: one for each class, within one for each split or directly in the root."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from vpt.data.descriptor import AUTOMATIC_CUT, Descriptor, SplitSources
from vpt.data.image_files import check_names, find_files, has_images, is_skipped, left_out_line
from vpt.data.images import SUFFIXES
from vpt.data.readers import hf_images
from vpt.data.readers.parts import (
    Parts,
    class_folders,
    split_paths,
    usual_paths,
)
from vpt.data.recognising import question, recognised, split_of_name
from vpt.data.samples import Sample, SamplesBuilder
from vpt.data.splits import USUAL_NAMES, SplitName
from vpt.errors import DataError
from vpt.registry import nearest

_IMAGES = frozenset({"images", "imgs", "img", "jpegimages"})
_OF_BOXES = _IMAGES | {"labels", "annotations", "imagesets", "data"}
"""Folders that hold images and the boxes in them, not images of a class; in lower case."""


def recognise(folder: Path) -> Descriptor | None:
    """A descriptor of folders of images by class; None: there are none.

    A folder with the usual name of a split is one where it holds folders: `train/*.jpg` beside
    `bus/*.jpg` is a class.

    Raises:
        DataError: two folders may be meant by one split.
    """
    if hf_images.is_layout(folder):
        return None
    found = {
        split: [path for path in paths if class_folders(path)]
        for split, paths in usual_paths(folder).items()
    }
    for split, paths in found.items():
        if len(paths) > 1:
            raise _which(folder, split, found)
    splits = {split: paths[0].name for split, paths in found.items() if paths}
    if splits and all(_are_of_boxes(class_folders(folder / name)) for name in splits.values()):
        return None
    if splits:
        seen = "folders of images by class: " + ", ".join(splits.values())
        seen += _not_read(folder, set(splits.values()))
        sources = SplitSources.model_validate(splits)
        if "val" not in splits and "train" in splits:
            sources = sources.model_copy(update={"val": AUTOMATIC_CUT})
        return recognised(folder, seen, format="folder", splits=sources.model_dump())
    names = class_folders(folder)
    if _are_of_boxes(names) or _are_splits(names):
        return None
    if len(names) == 1 and _is_data_set(folder / names[0]):
        return None
    if any(has_images(folder / name) for name in names):
        sources = SplitSources(train=".", val=AUTOMATIC_CUT, test=AUTOMATIC_CUT)
        seen = "folders of images by class, without splits"
        return recognised(folder, seen, format="folder", splits=sources.model_dump())
    return None


def _are_of_boxes(names: Sequence[str]) -> bool:
    """Whether folders are of all images and of what is in them: one of images suffices."""
    usual = {name.casefold() for name in names}
    return bool(usual) and (usual <= _OF_BOXES or not usual.isdisjoint(_IMAGES))


def _are_splits(names: Sequence[str]) -> bool:
    """Whether folders of images are splits without classes, not classes of which one is 'train'."""
    found = [name for name in names if split_of_name(name)]
    return len(found) > 1 or (bool(found) and _OF_BOXES.issuperset({*names} - {*found}))


def _not_read(folder: Path, splits: set[str]) -> str:
    """What to say of folders of images beside those of the splits, which may be mistyped ones."""
    others = [name for name in class_folders(folder) if name not in splits]
    others = [name for name in others if has_images(folder / name)]
    if not others:
        return ""
    usual = [word for words in USUAL_NAMES.values() for word in words]
    near = next((hint for name in others if (hint := nearest(name, usual))), "")
    return f" (not {', '.join(others[:3])}{', ...' if others[3:] else ''}{near})"


def _is_data_set(folder: Path) -> bool:
    """Whether the only folder in a folder holds splits, or several classes, and is no class."""
    if any(class_folders(path) for paths in usual_paths(folder).values() for path in paths):
        return True
    return sum(has_images(folder / name) for name in class_folders(folder)) > 1


def _which(folder: Path, split: SplitName, found: dict[SplitName, list[Path]]) -> DataError:
    """Two folders have usual names of one split."""
    named = " and ".join(f"'{path.name}'" for path in found[split])
    others = {name: paths[0].name for name, paths in found.items() if paths}
    choices = [
        recognised(
            folder,
            f"{path.name} for {split}",
            format="folder",
            splits={**others, split: path.name},
        )
        for path in found[split]
    ]
    return question(folder, f"has {named}, and either may be meant by {split}", choices)


def read_folder(descriptor: Descriptor, root: Path) -> Parts:
    """Images by split and class; the classes are the descriptor's, or the first split's folders.

    A class may have no image in val and test.
    """
    folders = split_paths(descriptor, root, suffix="")
    if not folders:
        raise DataError(_nothing_found(root))
    first = next(iter(folders.values()))
    names = descriptor.classes or class_folders(first)
    samples: dict[SplitName, SamplesBuilder] = {}
    left_out: Counter[str] = Counter()
    notes = []
    for split, folder in folders.items():
        folders_here = class_folders(folder)
        _check_known(folder, folders_here, names, first)
        present, loose = set(folders_here), _loose_images(folder)
        if loose and not present:
            raise DataError(
                f"'{folder}' holds {loose:,} images but no folder for each class; sort them into "
                "folders, or list them with their labels in a CSV file and name it in a descriptor "
                "(format: csv)"
            )
        if loose:
            images, they = ("image", "it has") if loose == 1 else ("images", "they have")
            notes.append(f"{loose:,} {images} directly in '{folder}' left out: {they} no class")
        samples[split] = SamplesBuilder()
        for label, name in enumerate(names):
            if name not in present:
                if split == "train" and descriptor.missing_classes == "error":
                    raise DataError(f"'{folder}' has no folder for class '{name}'")
                continue
            files = find_files(folder / name)
            check_names(files.images, folder / name)
            left_out.update(files.left_out)
            if split == "train" and not files.images and descriptor.missing_classes == "error":
                raise DataError(_empty_class(folder / name, left_out_line(files.left_out)))
            for path in files.images:
                key = path.relative_to(root).as_posix()
                samples[split].append(Sample(path, label, key))
    if line := left_out_line(left_out):
        notes.append(line)
    built = {split: builder.build() for split, builder in samples.items()}
    return Parts(tuple(names), built, notes=tuple(notes))


def _check_known(folder: Path, present: Sequence[str], names: Sequence[str], first: Path) -> None:
    """Refuse a class folder that is no class of the first split, or of the descriptor."""
    known = set(names)
    for name in present:
        if name not in known:
            raise DataError(
                f"'{folder}' has a folder '{name}' that is no class of "
                f"{'the descriptor' if folder == first else repr(str(first))}"
                f"{nearest(name, names) or '; give it images there too, or move it away'}"
            )


def _loose_images(folder: Path) -> int:
    return sum(
        path.suffix.lower() in SUFFIXES and not is_skipped(path.name) and path.is_file()
        for path in folder.iterdir()
    )


def _empty_class(folder: Path, others: str | None) -> str:
    """What to say of a folder for a class that holds no image; its files may be of other use."""
    beside = {name.casefold() for name in class_folders(folder.parent)}
    found = f"'{folder}' is taken for a class but has no images" + (
        f" ({others})" if others else ""
    )
    if len(beside & _OF_BOXES) > 1 or folder.name.casefold() in _OF_BOXES:
        listed = ", ".join(class_folders(folder.parent))
        return (
            f"{found}; '{folder.parent}' ({listed}) looks like images with boxes in the layout of "
            "YOLO or VOC: name the folder above it, or write a descriptor of format yolo, voc or "
            "coco"
        )
    return f"{found}; add some, or take the folder away if it is no class"


def _nothing_found(root: Path) -> str:
    """Why a folder holds no images by class, as far as that can be seen."""
    usual = "train/, val/ and test/ with one folder of images per class"
    inside = class_folders(root)
    if loose := _loose_images(root):
        return (
            f"'{root}' holds {loose:,} images but no folder for each class; give {usual}, or one "
            "folder of images per class, or list them with their labels in a CSV file"
        )
    if not inside:
        return f"'{root}' holds no folders; give {usual}, or one folder of images per class"
    listed = ", ".join(inside[:5]) + (", ..." if len(inside) > 5 else "")
    names = [name for names in USUAL_NAMES.values() for name in names]
    near = next((hint for name in inside if (hint := nearest(name, names))), "")
    return (
        f"'{root}' has none of the folders train, val, test{near or ''} (it has: {listed}); give "
        f"{usual}, one folder of images per class, or name the folders in a descriptor"
    )
