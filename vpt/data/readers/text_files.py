"""Text files as people have them: UTF-8 with or without a mark, UTF-16, and what is no text."""

from __future__ import annotations

import codecs
from pathlib import Path

from vpt.data.image_files import printable
from vpt.errors import DataError
from vpt.storage.whole_file import MAX_TEXT, read_whole

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins as UTF-16's does
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, or in the encoding that its first bytes mark (UTF-16, UTF-32).

    Raises:
        DataError: it cannot be read, is in another encoding, or holds NUL characters.
    """
    try:
        data = read_whole(path, most=MAX_TEXT)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{printable(str(path))}: cannot be read ({reason})") from error
    mark, encoding = next(
        ((mark, encoding) for mark, encoding in _MARKS if data.startswith(mark)), (b"", "utf-8")
    )
    body = data[len(mark) :]
    try:
        text = body.decode(encoding)
    except UnicodeDecodeError as error:
        line = body.count("\n".encode(encoding), 0, error.start) + 1
        found = "".join(f"\\x{byte:02x}" for byte in body[error.start : error.start + 1])
        raise DataError(
            f"{path}:{line}: cannot be read as {encoding.upper()} text (byte '{found}'); save it "
            "as UTF-8 (in Excel: 'CSV UTF-8')"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(
            f"{path}:{line}: holds a NUL character, so it is damaged or UTF-16 without a mark; "
            "save it as UTF-8"
        )
    return text
