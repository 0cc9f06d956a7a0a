"""The data.yaml of YOLO data sets, as Ultralytics reads it and Roboflow and CVAT write it.

https://docs.ultralytics.com/datasets/detect/ has its keys: path, train, val, test, names, nc.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from vpt.config import load_foreign_yaml
from vpt.data.readers.label_files import LabelFileError
from vpt.data.readers.label_pairs import below
from vpt.data.readers.parts import UNPRINTABLE, shown
from vpt.data.splits import SPLIT_NAMES, SplitName
from vpt.errors import ConfigError, DataError

_KEYS: dict[SplitName, tuple[str, ...]] = {
    "train": ("train",),
    "val": ("val", "valid", "validation"),
    "test": ("test",),
}


@dataclass(frozen=True)
class DataYaml:
    """What a data.yaml says.

    Attributes:
        path: the file.
        base: the folder that its paths start from.
        names: class index -> name; None: it does not say.
        sources: folders of images, or lists of them, of each split; they exist.
        point_values: numbers for each key point of a pose (2 or 3); None: no poses.
        no_test: why the test images that it names are left out: they are not there, as Roboflow
            names them always; None: they are, or it names none.
    """

    path: Path
    base: Path
    names: dict[int, str] | None
    sources: dict[SplitName, list[Path]]
    point_values: int | None
    no_test: str | None = None

    @property
    def same(self) -> bool:
        """Whether validation is on the training images, as in Ultralytics' smallest samples."""
        return self.sources.get("val", ()) == self.sources.get("train")


def is_data_yaml(values: dict[str, Any]) -> bool:
    """Whether the values of a YAML file are YOLO's, not those of a descriptor of ours."""
    return "format" not in values and bool({"names", "nc"} & values.keys())


def find_data_yamls(folder: Path) -> list[Path]:
    """The files in a folder that are a data.yaml, whatever they are called; sorted."""
    found = []
    for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
        try:
            fits = is_data_yaml(load_foreign_yaml(path))
        except ConfigError:
            fits = path.name == "data.yaml"  # then its reader says what is wrong with it
        if fits:
            found.append(path)
    return found


def split_keys(path: Path) -> list[SplitName]:
    """The splits for which a data.yaml names images."""
    values = load_foreign_yaml(path)
    return [split for split in SPLIT_NAMES if _value(values, split) is not None]


def read_data_yaml(path: Path) -> DataYaml:
    """What a data.yaml says.

    Raises:
        ConfigError: it is no YAML.
        DataError: a value cannot be used, or the images are not where it says; one line.
    """
    values = load_foreign_yaml(path)
    base = _base(path, values.get("path"))
    sources: dict[SplitName, list[Path]] = {}
    no_test: str | None = None
    for split in SPLIT_NAMES:
        value = _value(values, split)
        if value is None:
            continue
        texts = _texts(path, split, value)
        try:
            sources[split] = [_found(path, base, split, each) for each in texts]
        except LabelFileError as error:
            if split == "val" and sources:
                text = f"{error.reason}; without this line a part of train is held out"
                raise LabelFileError(path, text) from error
            if split != "test" or not sources:
                raise
            no_test = f"{error.reason}; left out"
    points = _point_values(path, values.get("kpt_shape"))
    return DataYaml(path, base, _names(path, values), sources, points, no_test)


def _value(values: dict[str, Any], split: SplitName) -> Any:
    """What is said of a split; '' and [] are nothing."""
    return next((values[key] for key in _KEYS[split] if values.get(key)), None)


def _base(path: Path, written: Any) -> Path:
    """The folder that paths start from: `path` where there is such a folder, or the file's own."""
    if written is not None and not isinstance(written, str):
        raise DataError(f"{path}: path {shown(written)} is not the name of a folder")
    start = PurePosixPath(_slashes(written or "."))
    for candidate in (path.parent / start, Path(start), below(path.parent, start)):
        if candidate is not None and candidate.is_dir():
            return Path(os.path.normpath(candidate))
    return path.parent


def _texts(path: Path, split: SplitName, value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(each, str) for each in values):
        raise DataError(f"{path}: {split} {shown(value)} is no folder or list of images")
    return [_slashes(each) for each in values]


def _slashes(text: str) -> str:
    return text.strip().replace("\\", "/")


def _found(path: Path, base: Path, split: SplitName, text: str) -> Path:
    """The folder or list that a value means, as it is written or as it was for its writer.

    '../train/images', as Roboflow writes it, is train/images beside the file where there is no
    other; of a path of another machine, the end counts that lies beside the file.
    """
    written = PurePosixPath(text)
    without_dots = PurePosixPath(*(part for part in written.parts if part not in ("..", ".")))
    candidates = [base / written, path.parent / written, base / without_dots]
    candidates.append(path.parent / without_dots)
    if written.is_absolute() or written.parts[0].endswith(":"):
        ends = (PurePosixPath(*written.parts[k:]) for k in range(1, len(written.parts)))
        candidates += [
            path.parent / end
            for end in ends
            if end.name not in ("images", "") or len(end.parts) > 1
        ]
    for candidate in candidates:
        if candidate.exists():
            return Path(os.path.normpath(candidate))
    looked = " or ".join(dict.fromkeys(f"'{os.path.normpath(each)}'" for each in candidates[:3]))
    raise LabelFileError(path, f"{split}: no such folder or list of images: {looked}")


def _names(path: Path, values: dict[str, Any]) -> dict[int, str] | None:
    names, count = values.get("names"), values.get("nc")
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise DataError(f"{path}: nc {shown(count)} is no number of classes")
    if names is None:
        return None if count is None else {k: f"class_{k}" for k in range(count)}
    if isinstance(names, list):
        pairs = {str(k): name for k, name in enumerate(names)}
    elif isinstance(names, dict):
        pairs = names
    else:
        raise DataError(f"{path}: names {shown(names)} is neither a list nor a mapping")
    found: dict[int, str] = {}
    for key, name in pairs.items():
        if not (key.isascii() and key.isdigit()) or isinstance(name, list | dict):
            raise DataError(f"{path}: names: '{key}: {shown(name)}' is not 'index: name'")
        found[int(key)] = _name(name, int(key))
    if not found:
        raise DataError(f"{path}: names is empty")
    if count is not None and count != len(found):
        raise DataError(f"{path}: nc is {count}, but there are {len(found)} names; which is right?")
    return dict(sorted(found.items()))


def _name(value: Any, index: int) -> str:
    if isinstance(value, bool):  # as YAML reads true and false without quotes
        value = str(value).lower()
    text = "" if value is None else UNPRINTABLE.sub(" ", str(value))
    return " ".join(text.split()) or f"class_{index}"


def _point_values(path: Path, shape: Any) -> int | None:
    if shape is None:
        return None
    if not isinstance(shape, list) or len(shape) != 2 or shape[1] not in (2, 3):
        raise DataError(f"{path}: kpt_shape {shown(shape)} is not [points, 2] or [points, 3]")
    return int(shape[1])
