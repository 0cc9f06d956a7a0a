"""What a reader says of a folder whose layout it knows, and the question where that is not certain.

A reader's `recognise(folder)` gives a descriptor that reads the folder as it lies, or None where
that is not its layout. Where it is, but more than one reading fits, it raises `question`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vpt.config import dump
from vpt.data.descriptor import Descriptor
from vpt.data.splits import USUAL_NAMES, SplitName
from vpt.errors import DataError

_SPLIT_WORDS = {word: split for split, words in USUAL_NAMES.items() for word in words}


def split_of_name(name: str) -> SplitName | None:
    """The split that a folder or file is named after: 'valid', 'Train', 'train2017', 'test_1'.

    Darknet's 'obj_train_data' is one, too.
    """
    word = re.fullmatch(r"(?:obj_)?([A-Za-z]+)(?:_data)?[-_. ]?[0-9]*", name)
    return _SPLIT_WORDS.get(word[1].lower()) if word else None


def recognised(folder: Path, seen: str, **fields: Any) -> Descriptor:
    """A descriptor of a folder, named after it, that knows why it reads the folder so.

    Args:
        folder: becomes the root.
        seen: what was found there, to follow "read as", e.g. 'images by class: train, val'.
        fields: the descriptor's others, at least its format.
    """
    values = {"name": folder.resolve().name or "data", "root": folder, **fields}
    return Descriptor.model_validate(values).recognised_by(seen)


def question(folder: Path, why: str, choices: Sequence[Descriptor]) -> DataError:
    """The refusal of a folder that can be read in several ways, with a descriptor for each.

    Args:
        folder: that was named as a data set.
        why: what is not certain, a clause that follows the folder's name.
        choices: one for each way, as `recognised` made them.
    """
    which = "this descriptor" if len(choices) == 1 else "the descriptor that you mean"
    written = "\n".join(f"# {choice.seen}\n{dump(choice, defaults=False)}" for choice in choices)
    return DataError(
        f"'{folder}' {why}; save {which} as a file (such as my_data.yaml), change what differs, "
        f"and name that file instead of the folder:\n\n{written.rstrip()}"
    )


def with_written(error: DataError, descriptor: Descriptor) -> DataError:
    """The same error; of a recognised folder that needs a descriptor after all, with one to change.

    Args:
        error: one line, which may say what to write in a descriptor.
        descriptor: by which the data were read.
    """
    text = str(error)
    written = to_change(descriptor, text)
    return error if "\n" in text or not written else DataError(f"{text}; {written}")


def to_change(descriptor: Descriptor, advice: str) -> str:
    """A recognised folder's descriptor, where advice says what to write in one; '' elsewhere."""
    if descriptor.seen is None or "descriptor" not in advice:
        return ""
    written = dump(descriptor, defaults=False).rstrip()
    return f"this descriptor reads the folder as it is, to be changed:\n\n{written}"


def layout_lines(descriptor: Descriptor) -> list[str]:
    """What to say before a folder is read that was recognised; nothing of a written descriptor."""
    if descriptor.seen is None:
        return []
    return [f"'{descriptor.root}' is read as {descriptor.seen}"]
