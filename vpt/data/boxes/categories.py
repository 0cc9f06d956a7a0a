"""The classes of a data set with boxes, and which of them each file's categories are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from vpt.data.boxes.detection import Finding
from vpt.data.descriptor import Descriptor
from vpt.data.near_paths import find_near_name
from vpt.data.readers.coco import CocoFile
from vpt.errors import DataError
from vpt.registry import nearest

_BY_NAME = "; write 'match_categories: name' in the descriptor to go by the names"


class Categories:
    """Classes by the categories of one file, the training file where there is one.

    Args:
        descriptor: of the data set.
        reference: that file.
        add: takes what was found.

    Attributes:
        ids: of the reference's categories, sorted: in label order.
        class_names: likewise; the descriptor's where it has some.

    Raises:
        DataError: the descriptor has more or fewer classes, or the same in another order.
    """

    def __init__(self, descriptor: Descriptor, reference: CocoFile, add: Callable[[Finding], None]):
        self._reference, self._add = reference, add
        self._by_name = descriptor.match_categories == "name"
        self.ids = tuple(reference.categories)
        self.class_names = tuple(descriptor.classes or self._unique_names())
        if len(self.class_names) != len(self.ids):
            raise DataError(
                f"{reference.path} has {len(self.ids)} categories, the descriptor "
                f"{len(self.class_names)} classes"
            )
        self._compare_names(descriptor)

    def labels(self, file: CocoFile) -> dict[int, int]:
        """The label of each category of a file that is a class.

        Raises:
            DataError: two categories to be matched by name share one.
        """
        if self._by_name and file is not self._reference:
            return self._labels_by_name(file)
        self._compare(file)
        return {number: label for label, number in enumerate(self.ids)}

    def _compare_names(self, descriptor: Descriptor) -> None:
        """Class names of the descriptor against the file's: another order is a mistake."""
        written = list(self._reference.categories.values())
        given = list(self.class_names)
        if descriptor.classes is None or given == written:
            return
        if sorted(given) == sorted(written):
            raise DataError(
                f"classes {given} of '{descriptor.name}' are in another order than the "
                f"categories of {self._reference.path}, sorted by id: {written}"
            )
        message = f"{written} of the file are called {given}"
        self._add(Finding("classes_renamed", self._reference.path, message))

    def _unique_names(self) -> list[str]:
        """The categories' names, with the ids added to those that are not alone."""
        names = dict(self._reference.categories)
        for name, count in Counter(names.values()).items():
            if count > 1:
                ids = ", ".join(str(number) for number, other in names.items() if other == name)
                message = f"categories {ids} are all called '{name}'; their ids are added to it"
                self._add(Finding("category_name_twice", self._reference.path, message))
        while len(set(names.values())) < len(names):
            counts = Counter(names.values())
            names = {
                number: name if counts[name] == 1 else f"{name} ({number})"
                for number, name in names.items()
            }
        return list(names.values())

    def _labels_by_name(self, file: CocoFile) -> dict[int, int]:
        known = list(self._reference.categories.values())
        for source in (self._reference, file):
            for name, count in Counter(source.categories.values()).items():
                if count > 1:
                    raise DataError(
                        f"{source.path} has {count} categories called '{name}', which cannot be "
                        "matched by name; remove match_categories from the descriptor"
                    )
        used = _used(file)
        labels: dict[int, int] = {}
        for number, name in file.categories.items():
            near = None if name in known else find_near_name(name, known)
            if near is not None and near.existing not in file.categories.values():
                self._tell_spelling(file, number, name, near.existing, near.reason)
                name = near.existing
            if name in known:
                labels[number] = known.index(name)
                continue
            kind = "category_not_in_train" if number in used else "category_unused"
            state = "has boxes, but" if number in used else "has no boxes, and"
            hint = nearest(name, known)
            message = f"category '{name}' {state} is not in {self._reference.path}{hint}"
            self._add(Finding(kind, file.path, message))
        return labels

    def _compare(self, file: CocoFile) -> None:
        """The categories of a file against the reference's, id by id."""
        used, reference = _used(file), self._reference.categories
        shared = set(file.categories.values()) & set(reference.values())
        moved = any(
            reference.get(key) != file.categories[key]
            for key in file.categories
            if file.categories[key] in shared
        )
        for number, name in file.categories.items():
            known = reference.get(number)
            if known == name:
                continue
            if known is None:
                kind = "category_not_in_train" if number in used else "category_unused"
                state = "has boxes, but" if number in used else "has no boxes, and"
                message = f"category {number} '{name}' {state} is not in {self._reference.path}"
            elif (near := find_near_name(name, [known])) is not None:
                self._tell_spelling(file, number, name, known, near.reason)
                continue
            else:
                kind = "category_renamed"
                where = f"'{known}' in {self._reference.path}"
                message = f"category {number} is '{name}', but {where}"
            self._add(Finding(kind, file.path, message + (_BY_NAME if moved else "")))

    def _tell_spelling(
        self, file: CocoFile, number: int, name: str, known: str, reason: str
    ) -> None:
        where = f"'{known}' in {self._reference.path}"
        message = f"category {number} is '{name}', and {where}: {reason}; taken as one"
        self._add(Finding("category_spelled", file.path, message))


def _used(file: CocoFile) -> set[int]:
    return {box.category_id for boxes in file.boxes.values() for box in boxes}
