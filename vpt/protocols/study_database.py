"""The database of studies that workers share: created once, safe with many at it."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpt.errors import ConfigError, RunError

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

_WAIT_SECONDS = 60  # for another worker's write
_ATTEMPTS = 8  # to connect


def open_storage(url: str) -> RDBStorage:
    """The database of studies behind a URL of SQLAlchemy's, created where it is missing.

    Raises:
        ConfigError: Optuna or the database's driver is not installed.
        RunError: the database cannot be used.
    """
    with database_errors(url):
        if url.startswith("sqlite"):
            return _open_sqlite(url)
        return _open_server(url)


def _open_sqlite(url: str) -> RDBStorage:
    """A file; its tables are created aside, so that it is there as a whole or not at all.

    SQLite knows no row locks: a transaction that will write must be alone from its start, or two
    workers could take the same trial.
    """
    optuna, sqlalchemy = _libraries()
    place = sqlalchemy.engine.make_url(url).database
    if place in (None, "", ":memory:"):
        raise ConfigError(f"storage {url} is in memory, which no other worker sees; name a file")
    path = Path(place)
    if not path.exists():
        aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        try:
            optuna.storages.RDBStorage(f"sqlite:///{aside}").engine.dispose()
            with contextlib.suppress(FileExistsError):  # another worker was first
                os.link(aside, path)
        finally:
            aside.unlink(missing_ok=True)
    options = {"timeout": _WAIT_SECONDS, "isolation_level": None}
    storage: RDBStorage = optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": options})
    sqlalchemy.event.listen(
        storage.engine, "begin", lambda link: link.exec_driver_sql("BEGIN IMMEDIATE")
    )
    return storage


def _open_server(url: str) -> RDBStorage:
    """Tried again where it fails: of workers that start at once only one can create a table."""
    optuna, sqlalchemy = _libraries()
    for more in reversed(range(_ATTEMPTS)):
        try:
            storage: RDBStorage = optuna.storages.RDBStorage(
                url, engine_kwargs={"pool_pre_ping": True}
            )
        except ImportError as error:
            why = error.__cause__ or error
            raise ConfigError(f"storage {_shown(url)}: install its driver ({why})") from error
        except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.DBAPIError):
            if not more:
                raise
            time.sleep(random.uniform(0.1, 0.5))
        else:
            return storage
    raise AssertionError


@contextlib.contextmanager
def opened_storage(url: str) -> Iterator[RDBStorage]:
    """`open_storage`, closed at the end; errors of the database come as one line.

    Raises:
        ConfigError: Optuna or the database's driver is not installed.
        RunError: the database cannot be used.
    """
    storage = open_storage(url)
    try:
        with database_errors(url):
            yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


@contextlib.contextmanager
def database_errors(url: str) -> Iterator[None]:
    """Errors of the database as one line."""
    optuna, sqlalchemy = _libraries()
    try:
        yield
    except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = " ".join(str(cause).split()) or type(cause).__name__
        raise RunError(f"storage {_shown(url)} cannot be used: {reason}") from error


def _libraries() -> tuple[Any, Any]:
    try:
        import optuna
        import sqlalchemy
    except ImportError as error:
        raise ConfigError("sweeps need Optuna: pip install 'vpt[sweep]'") from error
    optuna.logging.set_verbosity(logging.ERROR)
    return optuna, sqlalchemy


def _shown(url: str) -> str:
    """A URL without its password."""
    return re.sub(r"(//[^:/@]*):.*@", r"\1@", url)
