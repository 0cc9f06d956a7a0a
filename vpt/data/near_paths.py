"""The file that a listed name probably means, where no file has exactly that name.

Lists and files come from different tools: one encodes blanks as %20, one writes .JPG for .jpg, one
puts the folder in front. What differs is always one of the few things in `Variant`.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, get_args
from urllib.parse import unquote

from vpt.data.images import SUFFIXES

Variant = Literal[
    "url_encoded",
    "backslashes",
    "blanks",
    "unicode_form",
    "other_suffix",
    "letter_case",
    "suffix_case",
    "more_folders",
    "fewer_folders",
]
"""In what a listed name differs from the file's: URL encoding (%20); Windows' backslashes; blanks
at an end, or several for one; composed or decomposed accents (NFC, NFD); another suffix; upper and
lower case, of the suffix alone or anywhere; folders in front that are not there, or that are
left out."""

VARIANTS: tuple[Variant, ...] = get_args(Variant)

_OF_NAMES: tuple[Variant, ...] = ("url_encoded", "blanks", "unicode_form", "letter_case")
"""What may differ between names of classes, which have neither suffix nor folders."""

MOST_ENTRIES = 2_000_000
"""Files and folders that are looked at below a folder; beyond them nothing is suggested."""


_BROAD: tuple[Variant, ...] = ("other_suffix", "letter_case")
"""They cover other differences too, so they are named only where nothing narrower will do."""


_EXPLAINED = 1000
"""Missing names that are looked at for an explanation: what they have in common shows in these."""


@dataclass(frozen=True)
class NearPath:
    """An existing name that a listed one probably means.

    Attributes:
        listed: the name that does not exist.
        existing: the one that does, relative to the same folder, with slashes.
        variants: all in which they differ.
    """

    listed: str
    existing: str
    variants: tuple[Variant, ...]

    @property
    def reason(self) -> str:
        """What the difference is, in words."""
        return " and ".join(self._words(variant) for variant in self.variants)

    def __str__(self) -> str:
        return f"'{self.listed}' does not exist; '{self.existing}' does: {self.reason}"

    def _words(self, variant: Variant) -> str:
        if variant == "url_encoded":
            encoded = "list" if unquote(self.listed) != self.listed else "file's name"
            return f"the {encoded} is URL-encoded"
        if variant == "more_folders":
            front = _folders(self.listed)[: -len(_folders(self.existing)) or None]
            return f"the list has '{'/'.join(front)}/' in front"
        if variant == "fewer_folders":
            count = len(_folders(self.existing)) - len(_folders(self.listed))
            return f"the list leaves out '{'/'.join(_folders(self.existing)[:count])}/'"
        return _WORDS[variant]


_WORDS: dict[Variant, str] = {
    "backslashes": "the list has backslashes",
    "blanks": "they differ in blanks",
    "unicode_form": "they differ in how accents are encoded (NFC, NFD)",
    "other_suffix": "they differ in the suffix",
    "letter_case": "they differ in upper and lower case",
    "suffix_case": "their suffixes differ in upper and lower case",
}


def find_near_paths(
    missing: Iterable[str],
    folder: Path,
    *,
    among: Sequence[Variant] = VARIANTS,
    most: int = MOST_ENTRIES,
) -> dict[str, NearPath]:
    """For each missing name the file below a folder that it probably means, where there is one.

    The folder is walked once, whatever the number of names, and not at all if there is none; what
    is held in memory grows with the names, not with the folder. A name for which two files would do
    equally well gets none, and only image files are meant: a.xml is not the image a.jpg.

    Args:
        missing: names relative to the folder (or absolute ones of another machine).
        folder: where they were expected; hidden folders below it are not entered.
        among: what may differ.
        most: files and folders that are looked at. In a folder with more, a second file that would
            do as well could be among the rest; so there nothing is found.
    """
    wanted: dict[str, list[str]] = {}
    for name in missing:
        wanted.setdefault(_key(name), []).append(name)
    if not wanted:
        return {}
    found: dict[str, list[NearPath]] = {}
    for count, path in enumerate(_files_below(folder)):
        if count == most:
            return {}
        names = wanted.get(_key(path), ())
        if names and PurePosixPath(path.strip()).suffix.lower() not in SUFFIXES:
            continue
        for name in names:
            if (variants := differences(name, path, among)) is not None:
                found.setdefault(name, []).append(NearPath(name, path, variants))
    best = {name: _only_best(candidates) for name, candidates in found.items()}
    return {name: near for name, near in best.items() if near is not None}


def find_accepted(
    listed: Iterable[str], folder: Path, variants: Sequence[Variant]
) -> dict[str, str]:
    """The existing file of each listed name that has none of its own, where only these differ.

    A file that is listed itself, or meant by two names, is given to none of them.

    Args:
        listed: all names of a list, relative to the folder.
        folder: of the files.
        variants: what the user said may differ.
    """
    names = list(listed)
    missing = [name for name in names if is_foreign_path(name) or not _exists(folder / name)]
    near = find_near_paths(missing, folder, among=variants)
    meant = Counter(each.existing for each in near.values())
    own = set(names)
    return {
        name: each.existing
        for name, each in near.items()
        if meant[each.existing] == 1 and each.existing not in own
    }


def explain_missing(missing: Sequence[str], folder: Path) -> dict[str, str]:
    """For missing files of a list, by name: which existing file each probably means, and why.

    Where one explanation holds for all of them, that of the first names the descriptor's key that
    applies it. Of very many names only the first are looked at.
    """
    first = missing[:_EXPLAINED]
    near = find_near_paths(first, folder)
    reasons = {name: str(each) for name, each in near.items()}
    shared = common_variants(near, first)
    if shared is not None:
        key = f"name_variants: [{', '.join(shared)}]"
        which = "it" if len(first) == 1 else f"all {len(missing)}"
        reasons[first[0]] += f"; write '{key}' in the descriptor to accept {which}"
    return reasons


def is_foreign_path(name: str) -> bool:
    """Whether a listed name is an absolute path, of this machine or another."""
    return name.startswith("/") or re.match(r"[A-Za-z]:[/\\]", name) is not None


def find_near_name(name: str, existing: Iterable[str]) -> NearPath | None:
    """The one of some names (of classes or columns) that a missing one probably means."""
    candidates = [
        NearPath(name, other, variants)
        for other in existing
        if (variants := differences(name, other, _OF_NAMES)) is not None
    ]
    return _only_best(candidates)


def common_variants(
    near: Mapping[str, NearPath], missing: Sequence[str]
) -> tuple[Variant, ...] | None:
    """What explains all missing names at once; None: some stay without a file, or two share one."""
    if not missing or any(name not in near for name in missing):
        return None
    files = {near[name].existing for name in missing}
    if len(files) < len(set(missing)):
        return None
    used = {variant for name in missing for variant in near[name].variants}
    return tuple(variant for variant in VARIANTS if variant in used)


def differences(
    listed: str, existing: str, among: Sequence[Variant] = VARIANTS
) -> tuple[Variant, ...] | None:
    """The variants that turn one name into another, as few as will do; None: they do not."""
    needed = list(among)
    if not _equal(listed, existing, needed):
        return None
    for variant in sorted(among, key=lambda each: each not in _BROAD):
        without = [each for each in needed if each != variant]
        if _equal(listed, existing, without):
            needed = without
    return tuple(needed)


def _only_best(candidates: Sequence[NearPath]) -> NearPath | None:
    """The candidate with the fewest and narrowest differences; None where two are as near."""

    def distance(near: NearPath) -> tuple[int, int]:
        return len(near.variants), len(set(near.variants).intersection(_BROAD))

    ranked = sorted(candidates, key=distance)
    if len(ranked) > 1 and distance(ranked[0]) == distance(ranked[1]):
        return None
    return ranked[0] if ranked else None


# Each makes names alike that differ in one variant. Blanks and accents come after the decoding,
# which brings them forth; the case comes last.
_ALIKE: tuple[tuple[Variant, Callable[[str], str]], ...] = (
    ("url_encoded", unquote),
    ("backslashes", lambda name: name.replace("\\", "/")),
    ("blanks", lambda name: "/".join(map(_without_blanks, name.split("/")))),
    ("unicode_form", lambda name: unicodedata.normalize("NFC", name)),
    ("other_suffix", lambda name: _stem(name)),
    ("suffix_case", lambda name: _stem(name) + name[len(_stem(name)) :].lower()),
    ("letter_case", lambda name: unicodedata.normalize("NFC", name.casefold())),
)


def _equal(listed: str, existing: str, variants: Sequence[Variant]) -> bool:
    """Whether two names are one where these variants are overlooked."""
    for variant, alike in _ALIKE:
        if variant in variants:
            listed, existing = alike(listed), alike(existing)
    *front, name = _parts(listed)
    *place, file = _parts(existing)
    if name != file:
        return False
    if front == place:
        return True
    if "more_folders" in variants and len(front) > len(place):
        return front[len(front) - len(place) :] == place
    return "fewer_folders" in variants and place[len(place) - len(front) :] == front


_NOT_PLAIN = frozenset("%\\ ")


def _key(name: str) -> str:
    """What every variant leaves as it is: the name without folders, suffix, case and so on."""
    if name.isascii() and name.isprintable() and not _NOT_PLAIN.intersection(name):
        return _stem(name.rpartition("/")[2]).casefold()  # nearly all names, and sooner
    for _, alike in _ALIKE:
        name = alike(name)
    return name.rpartition("/")[2]


def _without_blanks(part: str) -> str:
    """One blank between words, none at the ends or before the suffix; blanks alone are a name."""
    if re.fullmatch(r"\s+\.[^.\s]*\s*", part):
        return part.rstrip()
    return re.sub(r" +(?=\.[^. ]*$)", "", " ".join(part.split()))


def _stem(name: str) -> str:
    """A path without the suffix of its last part; '.jpg' has none, 'v1.2 final' neither."""
    stem, dot, suffix = name.rpartition(".")
    if not dot or not stem or stem.endswith("/") or not 1 <= len(suffix.strip()) <= 5:
        return name
    return stem if suffix.strip().isalnum() else name


def _parts(name: str) -> list[str]:
    """The folders and the name of a path; empty parts and '.' are none."""
    return [part for part in name.split("/") if part not in ("", ".")] or [""]


def _folders(name: str) -> list[str]:
    return _parts(unquote(name).replace("\\", "/"))[:-1]


def _exists(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # no name that a file could have
        return False


def _files_below(folder: Path) -> Iterator[str]:
    """Paths relative to the folder, with slashes; links are followed, each folder is entered once.

    Folders are given too, as an empty string, so that the caller can count what was looked at.
    """
    entered: set[tuple[int, int]] = set()
    waiting = [("", folder)]
    while waiting:
        below, place = waiting.pop()
        try:
            state = place.stat()
            entries = os.scandir(place)
        except OSError:  # what cannot be read holds nothing that could be used
            continue
        if (state.st_dev, state.st_ino) in entered:
            entries.close()
            continue
        entered.add((state.st_dev, state.st_ino))
        with entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name == "@eaDir":
                    continue
                if _is_folder(entry):
                    waiting.append((f"{below}{entry.name}/", Path(entry.path)))
                    yield ""
                else:
                    yield below + entry.name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in circles
        return False
