"""What a path given as a data set is: a descriptor, or a folder whose layout is recognised."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vpt.config import load_yaml, validate
from vpt.data.descriptor import Descriptor
from vpt.data.readers import folder, parquet
from vpt.data.recognising import question
from vpt.errors import DataError

# Each gives a descriptor of a folder in its layout, or None; see `vpt.data.recognising`. A layout
# that is another one as well, such as train/ with images/ and labels/, is the more special one's:
# the general recogniser has to pass it over.
_RECOGNISERS: tuple[Callable[[Path], Descriptor | None], ...] = (
    parquet.recognise,
    folder.recognise,
)


def load_descriptor(path: Path) -> Descriptor:
    """The descriptor in a YAML file, or one that reads a folder as it lies.

    Raises:
        DataError: there is no such file or folder, or not exactly one reader knows the folder's
            layout.
        ConfigError: the file is no descriptor.
    """
    if path.suffix.lower() == ".json" and path.is_file():
        raise DataError(
            f"{path} holds annotations; name it under 'splits' in a descriptor "
            "(datasets/custom_coco.yaml is a template)"
        )
    if path.is_dir():
        return recognise_folder(path)
    if not path.exists():
        raise DataError(
            f"no data set at '{path}'; give a descriptor (YAML) or a folder with train/, val/ and "
            "test/ that hold one folder of images per class"
        )
    return validate(Descriptor, load_yaml(path), source=str(path))


def recognise_folder(path: Path) -> Descriptor:
    """A descriptor that reads a folder as it lies.

    Raises:
        DataError: no reader knows its layout, or several do; then it holds a descriptor for each.
    """
    _refuse_boxes(path)
    found = [each for recognise in _RECOGNISERS if (each := recognise(path)) is not None]
    if len(found) > 1:
        raise question(path, f"can be read in {len(found)} ways", found)
    if not found:
        return Descriptor(name=path.resolve().name, format="folder", root=path)
    return found[0]


def _refuse_boxes(path: Path) -> None:
    """A folder says nothing of boxes: those need a descriptor, in COCO's format."""
    if any(path.glob("annotations/*.json")):
        raise DataError(
            f"'{path}' has annotation files; write a descriptor of format coco for it "
            f"(copy datasets/custom_coco.yaml, root: {path})"
        )
    if any(path.glob("labels/**/*.txt")):
        raise DataError(
            f"'{path}' looks like boxes in YOLO's format, which is not read; convert them to "
            "COCO's, and write a descriptor (datasets/custom_coco.yaml is a template)"
        )
