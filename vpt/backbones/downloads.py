"""Loading published weights: quietly, and with one short reason where it fails."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants, get_session

_NO_CONNECTION = re.compile(
    r"connection|connect error|name resolution|getaddrinfo|offline|local cache|urlopen|timed? ?out",
    flags=re.IGNORECASE,
)
_LONGEST = 300
_TRIES, _SECONDS = 2, 5.0
HUB = constants.ENDPOINT
"""Where timm's weights and most of open_clip's are published."""


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


@contextmanager
def impatient(*, downloading: bool = True) -> Iterator[None]:
    """Where Hugging Face's hub does not answer within seconds, weights come from its cache alone.

    Left to itself huggingface_hub asks for a file that is not in its cache for a minute, or, where
    nothing answers at all, for six. `HF_HUB_OFFLINE=1` skips the question.

    Args:
        downloading: whether any weights are published ones; nothing is asked where none are.
    """
    if not downloading or constants.HF_HUB_OFFLINE or _answers():
        yield
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = False


def _answers() -> bool:
    """Whether the hub answers at all, through the proxies that the environment names."""
    with quiet():
        for _ in range(_TRIES):
            try:
                get_session().head(constants.ENDPOINT, timeout=_SECONDS)
            except Exception:  # noqa: BLE001 - of its HTTP library, which differs by version
                continue
            return True
    return False


def reason_of(error: Exception, *, source: str | None) -> str:
    """Why a model could not be made, in one line.

    Args:
        error: as a library raised it.
        source: where weights were to be fetched from; None: they were not.
    """
    text = " ".join(f"{error}".split()) or type(error).__name__
    if source is not None and _NO_CONNECTION.search(text):
        return (
            f"its weights are not in the cache ({constants.HF_HUB_CACHE}), and {source} cannot be "
            "reached; give a local file: backbone.weights=FILE.safetensors"
        )
    short = text if len(text) <= _LONGEST else f"{text[:_LONGEST].rpartition(' ')[0]} ..."
    hint = "" if source is None else "; without network give backbone.weights=FILE.safetensors"
    return short + hint
