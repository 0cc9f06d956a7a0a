"""Archives from strangers: only regular files and folders, only inside, only within limits.

Nothing here trusts what an archive says of itself, nor the filters of `tarfile` and `zipfile`.
"""

from __future__ import annotations

import bz2
import gzip
import os
import re
import secrets
import shutil
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, Self

from vpt.errors import DataError
from vpt.storage.atomic_file import free_bytes, write_error

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2")

_BLOCK = 1 << 20
_LONGEST_HEADER = 1 << 20
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,  # a compression that zipfile does not know
    RuntimeError,  # an encrypted entry
    ValueError,
    OverflowError,
)


@dataclass(frozen=True)
class Limits:
    """What an archive may unpack to; beyond it is refused.

    Attributes:
        entries: files and folders.
        size: bytes of all files.
        ratio: bytes of all files to those of the archive, where that is above `small`.
        small: bytes that any archive may unpack to.
    """

    entries: int = 2_000_000
    size: int = 500 * 10**9
    ratio: int = 50
    small: int = 2**30

    def bytes_of(self, archive: int) -> int:
        """The most bytes that an archive of so many bytes may unpack to."""
        return min(self.size, max(self.small, self.ratio * archive))


def is_archive(name: str) -> bool:
    """Whether a file of this name is one that `unpack` reads."""
    return name.lower().endswith(SUFFIXES)


def unpack(archive: Path, folder: Path, *, take: str = "", limits: Limits | None = None) -> int:
    """Unpack an archive into a folder, and give the number of files.

    On an error the folder is left half full: give one that is thrown away then (`new_folder`).

    Args:
        archive: one of `SUFFIXES`.
        folder: exists; files in it are not replaced.
        take: the folder of the archive whose content is wanted, without the folder itself; what
            lies elsewhere is left out. '': all.
        limits: None: the default ones.

    Raises:
        DataError: it is damaged, holds something else than files and folders or a name that leads
            outside, names clash, or a limit is passed.
        RunError: a file cannot be written.
    """
    unpacking = _Unpacking(archive, folder, take, limits or Limits())
    try:
        if archive.name.lower().endswith(".zip"):
            _unpack_zip(unpacking)
        else:
            _unpack_tar(unpacking)
    except _DAMAGE as error:
        raise _damage(archive, error) from error
    except OSError as error:
        if error.errno is None:  # not the system's, but gzip's or bz2's
            raise _damage(archive, error) from error
        raise DataError(f"{archive} cannot be read: {error.strerror}") from error
    if not unpacking.files:
        where = f" in its folder '{take}'" if take else ""
        raise DataError(f"{archive} holds no file{where}; is it another archive?")
    return unpacking.files


def _damage(archive: Path, error: Exception) -> DataError:
    detail = " ".join(str(error).split()) or type(error).__name__
    return DataError(f"{archive} is damaged or no archive ({detail[:120]}); fetch it again")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its name at the end, or is removed on an error.

    `path` itself is there as a whole or not at all; an empty folder of that name is replaced.
    Whoever calls has the right to all folders that earlier calls, killed, left beside it; they are
    removed.

    Raises:
        DataError: something else has the name.
        RunError: the folder cannot be made.
    """
    remove_unfinished(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.unpacking")
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise write_error(temporary, error, 0) from error
    try:
        yield temporary
        os.sync()  # all files reach the disk before their folder has its name
        try:
            temporary.rename(path)
        except OSError as error:
            raise DataError(f"{path} is there already; move it away") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_unfinished(path: Path) -> None:
    """Remove what killed calls of `new_folder` left."""
    pattern = re.compile(re.escape(f".{path.name}.") + r"[0-9a-f]{8}\.unpacking")
    for other in path.parent.iterdir() if path.parent.is_dir() else ():
        if pattern.fullmatch(other.name):
            shutil.rmtree(other, ignore_errors=True)


class _Unpacking:
    """One archive on its way into a folder: every name and byte is checked here."""

    def __init__(self, archive: Path, folder: Path, take: str, limits: Limits):
        self.archive, self.folder, self.limits = archive, folder, limits
        self.take = tuple(part for part in take.split("/") if part)
        size = archive.stat().st_size
        self.most = limits.bytes_of(size)
        if free_bytes(folder) < size:
            raise DataError(
                f"no space to unpack {archive}: at least {size:,} bytes are needed, "
                f"{free_bytes(folder):,} are free"
            )
        self.files = self.entries = self.bytes = 0
        self._seen: dict[str, tuple[str, bool]] = {}
        self._written: set[str] = set()
        self._folders: set[Path] = set()

    def count(self, entries: int = 1) -> None:
        self.entries += entries
        if self.entries > self.limits.entries:
            raise DataError(
                f"{self.archive} holds more than {self.limits.entries:,} files and folders; it is "
                "refused"
            )

    def grow(self, size: int) -> None:
        self.bytes += size
        if self.bytes > self.most:
            raise DataError(
                f"{self.archive} unpacks to more than {self.most:,} bytes; it is refused"
            )

    def refuse(self, name: str, why: str) -> DataError:
        return DataError(f"{self.archive}: '{_shown(name)}' {why}; it is refused")

    def place(self, name: str, *, is_folder: bool) -> Path | None:
        """Where an entry goes; None: it is not wanted."""
        parts = self._parts(name)
        self._register(name, parts, is_folder)
        if parts[: len(self.take)] != self.take or len(parts) == len(self.take):
            return None
        return self.folder.joinpath(*parts[len(self.take) :])

    def _parts(self, name: str) -> tuple[str, ...]:
        if name.startswith("/") or "\\" in name or re.match(r"[A-Za-z]:", name):
            raise self.refuse(name, "is an absolute path, or has a backslash or a drive")
        if _UNPRINTABLE.search(name):
            raise self.refuse(name, "is a name that is not printable")
        parts = tuple(part for part in name.split("/") if part not in ("", "."))
        if ".." in parts:
            raise self.refuse(name, "leads outside")
        return parts

    def _register(self, name: str, parts: tuple[str, ...], is_folder: bool) -> None:
        """Refuse names that are one file, or a file and a folder, on some file system."""
        for length in range(1, len(parts) + 1):
            path, folder = "/".join(parts[:length]), is_folder or length < len(parts)
            key = unicodedata.normalize("NFC", path).casefold()
            before, was_folder = self._seen.setdefault(key, (path, folder))
            if before != path:
                raise self.refuse(name, f"and '{_shown(before)}' differ in case alone")
            if was_folder != folder:
                raise self.refuse(name, "is both a file and a folder")
        if not is_folder:
            if key in self._written:
                raise self.refuse(name, "is there twice")
            self._written.add(key)

    def write(self, target: Path, source: IO[bytes], size: int, name: str) -> None:
        """Copy one file of `size` bytes to its place, which nothing has taken yet."""
        try:
            if target.parent not in self._folders:
                target.parent.mkdir(parents=True, exist_ok=True)
                self._folders.add(target.parent)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(target, flags, 0o666)
        except FileExistsError as error:
            raise self.refuse(name, "is there already, from another archive") from error
        except OSError as error:
            raise write_error(target, error, size) from error
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            written = 0
            while block := source.read(_BLOCK):
                self.grow(len(block))
                rest = memoryview(block)
                try:
                    while rest:  # a write may take fewer bytes than it is given
                        rest = rest[file.write(rest) :]
                except OSError as error:
                    raise write_error(target, error, size) from error
                written += len(block)
        if written != size:
            raise EOFError(f"'{_shown(name)}' ends after {written:,} of {size:,} bytes")
        self.files += 1

    def make_folder(self, target: Path) -> None:
        try:
            target.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(target, error, 0) from error


def _shown(name: str) -> str:
    text = _UNPRINTABLE.sub("?", name)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _unpack_zip(unpacking: _Unpacking) -> None:
    with zipfile.ZipFile(unpacking.archive) as archive:
        entries = archive.infolist()
        unpacking.count(len(entries))
        declared = sum(entry.file_size for entry in entries)
        if declared > unpacking.most:
            unpacking.grow(declared)
        for entry in entries:
            # The upper half are the permissions and the kind, where a Unix made the archive.
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise unpacking.refuse(entry.filename, "is neither a file nor a folder")
            # As written: zipfile itself cuts a name at a NUL and turns backslashes around.
            target = unpacking.place(entry.orig_filename, is_folder=entry.is_dir())
            if target is None:
                continue
            if entry.is_dir():
                unpacking.make_folder(target)
            else:
                with archive.open(entry) as source:
                    unpacking.write(target, source, entry.file_size, entry.filename)


class _Member(tarfile.TarInfo):
    """An entry of a tar; a damaged one is an error, where `tarfile` would call it the end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            member = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf and not any(buf):  # the end, as it should be marked
                raise
            raise EOFError("an entry is damaged, or the end is missing") from error
        if member.type in _EXTENSIONS and member.size > _LONGEST_HEADER:
            raise EOFError(f"a header of {member.size:,} bytes")
        return member


_EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


def _unpack_tar(unpacking: _Unpacking) -> None:
    with (
        unpacking.archive.open("rb") as packed,
        _decompressed(unpacking.archive.name, packed) as plain,
    ):
        counted: Any = _Counted(plain, unpacking)
        # "r|": read once from front to back, with no seeking in what was compressed.
        with tarfile.open(fileobj=counted, mode="r|", tarinfo=_Member, errorlevel=2) as archive:
            while (member := archive.next()) is not None:
                # Of no use any more, and a kilobyte for each entry.
                archive.members.clear()  # type: ignore[attr-defined]
                _unpack_member(unpacking, archive, member)
        while counted.read(_BLOCK):  # to the end, where gzip and bz2 have their checksums
            pass


def _unpack_member(
    unpacking: _Unpacking, archive: tarfile.TarFile, member: tarfile.TarInfo
) -> None:
    unpacking.count()
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE):
        raise unpacking.refuse(member.name, "is neither a file nor a folder")
    target = unpacking.place(member.name, is_folder=member.isdir())
    if target is None:
        return
    if member.isdir():
        unpacking.make_folder(target)
        return
    source = archive.extractfile(member)
    assert source is not None
    unpacking.write(target, source, member.size, member.name)


def _decompressed(name: str, packed: BinaryIO) -> Any:
    name = name.lower()
    if name.endswith((".tar.gz", ".tgz")):
        return gzip.GzipFile(fileobj=packed, mode="rb")
    return bz2.BZ2File(packed) if name.endswith(".bz2") else packed


class _Counted:
    """A stream that may not give much more than its archive may unpack to, files or not."""

    def __init__(self, plain: Any, unpacking: _Unpacking):
        self._plain, self._unpacking = plain, unpacking
        self._bytes = 0

    def read(self, size: int) -> bytes:
        block: bytes = self._plain.read(size)
        self._bytes += len(block)
        if self._bytes > self._unpacking.most + 2048 * (self._unpacking.entries + 1024):
            self._unpacking.grow(self._unpacking.most + 1)
        return block
