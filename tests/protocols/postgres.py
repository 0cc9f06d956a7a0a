"""A PostgreSQL server for a test, where the machine has one installed."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def installed() -> Path | None:
    """The folder of `postgres` and `initdb`: Debian's, or that of the PATH."""
    folders = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    if (found := shutil.which("initdb")) is not None:
        folders.append(Path(found).parent)
    return next((f for f in folders if (f / "initdb").exists() and (f / "postgres").exists()), None)


@contextmanager
def server(binaries: Path) -> Iterator[str]:
    """The URL of a server's database; it listens on a socket file alone and ends with the test."""
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    user = _unprivileged()
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)
    # The server refuses to run as root.
    who = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    where = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **who}
    data = ["-D", str(folder / "data")]
    process = None
    try:
        subprocess.run(
            [binaries / "initdb", *data, "-U", "tester", "-A", "trust", "-N"], check=True, **where
        )
        process = subprocess.Popen(
            [binaries / "postgres", *data, "-k", str(folder), "-c", "listen_addresses="], **where
        )
        deadline = time.monotonic() + 30
        while not list(folder.glob(".s.PGSQL.*[0-9]")) and time.monotonic() < deadline:
            time.sleep(0.05)
        yield f"postgresql+psycopg://tester@/postgres?host={folder}"
    finally:
        if process is not None:
            process.terminate()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _unprivileged() -> pwd.struct_passwd | None:
    """Another user than root, if this is root."""
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    return None
