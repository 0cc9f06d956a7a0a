"""What a path given as a data set is: a descriptor, or a folder whose layout is recognised."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from vpt.config import load_foreign_yaml, load_yaml, validate
from vpt.data.descriptor import AUTOMATIC_CUT, Descriptor, SplitSources
from vpt.data.image_files import has_images
from vpt.data.images import SUFFIXES
from vpt.data.readers import coco_folders, folder, hf_images, hf_objects, parquet, voc, yolo
from vpt.data.readers.parts import class_folders
from vpt.data.readers.yolo_yaml import is_data_yaml
from vpt.data.recognising import question
from vpt.data.unread_formats import refusal_of, unread_annotations
from vpt.errors import DataError
from vpt.registry import nearest

# Each gives a descriptor of a folder in its layout, or None; see `vpt.data.recognising`. A layout
# that is another one as well, such as train/ with images/ and labels/, is the more special one's:
# the general recogniser has to pass it over.
_RECOGNISERS: tuple[Callable[[Path], Descriptor | None], ...] = (
    coco_folders.recognise,
    voc.recognise,
    yolo.recognise,
    hf_objects.recognise,
    parquet.recognise,
    hf_images.recognise,
    folder.recognise,
)


_ARCHIVES = frozenset({".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"})
_LISTS = frozenset({".csv", ".tsv", ".txt"})


def load_descriptor(path: Path) -> Descriptor:
    """The descriptor in a YAML file, or one that reads a folder as it lies.

    Raises:
        DataError: there is no such file or folder, or not exactly one reader knows the folder's
            layout.
        ConfigError: the file is no descriptor.
    """
    if path.is_file() and path.suffix.lower() not in _LISTS and (unread := refusal_of(path)):
        raise DataError(unread)
    if path.suffix.lower() == ".xml" and path.is_file():
        raise DataError(f"'{path}' is the annotation of one image; name the folder of them all")
    if path.suffix.lower() == ".json" and path.is_file():
        raise DataError(
            f"{path} holds annotations; {_folder_of(path)}name it under 'splits' in a descriptor "
            "(datasets/custom_coco.yaml is a template)"
        )
    if path.is_dir():
        return recognise_folder(path)
    if not path.exists():
        raise DataError(
            f"no data set at '{path}'{_near(path)} Give a descriptor (YAML), or a folder that "
            "holds a folder of images for each class, directly or in train/, val/ and test/"
        )
    if path.suffix.lower() in SUFFIXES:
        raise DataError(f"'{path}' is an image; name the folder that holds those of all classes")
    if path.suffix.lower() in _ARCHIVES:
        raise DataError(f"'{path}' is an archive; unpack it, and name the folder")
    if path.suffix.lower() in _LISTS:
        raise DataError(
            f"'{path}' is no descriptor; name a folder, or a YAML file, for a list with the "
            f"columns path and label one of: {_template(path.parent, path.name)}"
        )
    if is_data_yaml(load_foreign_yaml(path)):
        return _of_data_yaml(path)
    values = load_yaml(path)
    if "format" not in values and {"run_dir", "backbone"} & set(values):
        raise DataError(
            f"'{path}' is the config of a training, not a descriptor; name the folder or the "
            "descriptor that stands in it under data.dataset"
        )
    return validate(Descriptor, values, source=str(path))


def _folder_of(annotations: Path) -> str:
    """'name the folder ..., or ' where a file of annotations lies in one that is recognised."""
    for place in list(annotations.parents)[:2]:
        try:
            found = coco_folders.recognise(place)
        except DataError:  # one that raises a question
            continue
        if found is not None and has_images(place):
            return f"name the folder '{place}', or "
    return ""


def _of_data_yaml(path: Path) -> Descriptor:
    """A descriptor of the data set whose YOLO data.yaml was named."""
    descriptor = yolo.recognise_yaml(path)
    if descriptor is None:
        raise DataError(
            f"{path} names classes, as YOLO's data.yaml does, but no images, and there are none in "
            "train/images or images/train beside it; name them under 'train' and 'val' in it"
        )
    return descriptor


def recognise_folder(path: Path) -> Descriptor:
    """A descriptor that reads a folder as it lies.

    Raises:
        DataError: no reader knows its layout, or several do; then it holds a descriptor for each.
    """
    found = [each for recognise in _RECOGNISERS if (each := recognise(path)) is not None]
    if len(found) > 1:
        raise question(path, f"can be read in {len(found)} ways", found)
    if not found:
        nothing = f"'{path}' is no data set that is recognised ({_holds(path)})"
        inside = [path / name for name in class_folders(path) if _is_data_set(path / name)]
        if len(inside) == 1:
            raise DataError(f"{nothing}; '{inside[0]}' is one: name that")
        if unread := unread_annotations(path):
            raise DataError(f"'{path}' is no data set that is recognised; {unread}")
        raise DataError(
            f"{nothing}; read as it lies is a folder that holds a folder of images for each class, "
            "directly or in train/ and val/, images with metadata.csv, or boxes in the format of "
            "COCO, PASCAL VOC or YOLO; anything else needs a descriptor, for a list with the "
            f"columns path and label a YAML file of: {_template(path)}"
        )
    return found[0]


def _near(path: Path) -> str:
    """', did you mean ...?' for what lies beside a path that does not exist; else a full stop."""
    try:
        return nearest(path.name, [entry.name for entry in path.parent.iterdir()]) or "."
    except OSError:
        return "."


def _template(folder: Path, listed: str | None = None) -> str:
    """A descriptor of a list of images in a folder, in YAML on one line."""
    tables = sorted(path.name for path in folder.glob("*.csv"))
    listed = listed or (tables[0] if tables else "labels.csv")
    descriptor = Descriptor(
        name=folder.resolve().name or "data",
        format="csv",
        root=folder,
        file=listed,
        splits=SplitSources(val=AUTOMATIC_CUT, test=AUTOMATIC_CUT),
    )
    return json.dumps(descriptor.model_dump(mode="json", exclude_defaults=True), ensure_ascii=False)


def _is_data_set(folder: Path) -> bool:
    """Whether a folder in a folder that is no data set is one itself."""
    try:
        return any(recognise(folder) is not None for recognise in _RECOGNISERS)
    except DataError:  # one that raises a question
        return True


def _holds(path: Path) -> str:
    """What lies in a folder, in a few words."""
    entries = sorted(entry for entry in path.iterdir() if entry.name[0] != ".")
    folders = [f"{entry.name}/" for entry in entries if entry.is_dir()]
    kinds = Counter(entry.suffix.lower() or entry.name for entry in entries if entry.is_file())
    files = [f"{count} {kind}" for kind, count in kinds.most_common(4)]
    if not entries:
        return "it is empty"
    more = [f"and {len(folders) - 6} more folders"] if len(folders) > 6 else []
    return f"it holds {', '.join([*folders[:6], *more, *files])}"
