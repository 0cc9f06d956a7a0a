"""Loading published weights: quietly, and with one short reason where it fails."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_NO_CONNECTION = re.compile(
    r"connection|connect error|name resolution|getaddrinfo|offline|local cache|urlopen|timed? ?out",
    flags=re.IGNORECASE,
)
_LONGEST = 300


@contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' warnings, log lines and retries: what went wrong is in the error.

    open_clip writes to the root logger, which sets up a handler of its own when first used;
    huggingface_hub sets its own level when it is imported.
    """
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def reason_of(error: Exception, *, downloading: bool) -> str:
    """Why a model could not be made, in one line.

    Args:
        error: as a library raised it.
        downloading: whether weights were to be fetched.
    """
    text = " ".join(f"{error}".split()) or type(error).__name__
    if downloading and _NO_CONNECTION.search(text):
        return (
            "its weights could not be downloaded, there is no connection; give a local file: "
            "backbone.weights=FILE.safetensors"
        )
    short = text if len(text) <= _LONGEST else f"{text[:_LONGEST].rpartition(' ')[0]} ..."
    hint = "; without network give backbone.weights=FILE.safetensors" if downloading else ""
    return short + hint
