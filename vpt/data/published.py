"""The files that a data set is published as, as its descriptor tells of them."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from pydantic import Field, field_validator, model_validator

from vpt.config import Schema
from vpt.storage.archive import is_archive
from vpt.storage.download import CHECKSUM, Remote, file_name, url_problem


class PublishedFile(Schema):
    """One file to fetch: an archive that is unpacked, or a file that is taken as it is.

    Attributes:
        url: https addresses, the first preferred (http where there is a checksum); none for a file
            that only a person can fetch.
        name: of the file; the end of the first address if None.
        page: where a person finds it; the descriptor's source if None.
        checksum: 'sha256:...' or 'md5:...', as published.
        size: in bytes, where it is known.
        take: the folder of the archive that holds the data; '': all of it.
        into: the folder that its content, or the file, goes to, relative to root; '': root itself.
    """

    url: str | list[str] = Field(default_factory=list)
    name: str | None = None
    page: str | None = None
    checksum: str | None = Field(default=None, pattern=CHECKSUM)
    size: int | None = Field(default=None, ge=1, le=10**15)
    take: str = ""
    into: str = ""

    @property
    def urls(self) -> tuple[str, ...]:
        """All addresses."""
        return (self.url,) if isinstance(self.url, str) else tuple(self.url)

    @property
    def file_name(self) -> str:
        """What the file is called."""
        return self.name or file_name(self.urls)

    @property
    def remote(self) -> Remote:
        """What is to be fetched."""
        return Remote(self.urls, self.checksum, self.size)

    @field_validator("take", "into")
    @classmethod
    def _check_folder(cls, folder: str) -> str:
        if PurePosixPath(folder).is_absolute() or ".." in PurePosixPath(folder).parts:
            raise ValueError("is a folder inside, without '..'")
        return folder

    @model_validator(mode="after")
    def _check(self) -> PublishedFile:
        for url in self.urls:
            problem = url_problem(url, has_checksum=self.checksum is not None)
            if problem:
                raise ValueError(problem)
        if not re.fullmatch(r"[\w][\w.,+ -]*", self.file_name):
            raise ValueError(f"file name '{self.file_name}' is none; write it as 'name'")
        if self.take and not is_archive(self.file_name):
            raise ValueError(f"'take' is for archives, and '{self.file_name}' is none")
        return self
