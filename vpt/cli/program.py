"""The program `vpt`: its commands put together, and what its exit codes mean."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any

import typer

from vpt.cli import benchmarks, comparing, data, evaluating, looking, predicting, training
from vpt.cli.mistakes import refusal
from vpt.cli.terminal import complain, log

app = typer.Typer(
    name="vpt",
    help="Visual prompt tuning: one frozen vision transformer, one small file per task.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog="Every command takes --traceback, to see where an error came from.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from vpt import __version__

        log(f"vpt {__version__}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", is_eager=True, callback=_show_version
        ),
    ] = False,
) -> None:
    """Visual prompt tuning: one frozen vision transformer, one small file per task."""
    del version


for group in (training, evaluating, predicting, comparing, looking, benchmarks):
    app.add_typer(group.commands)
app.add_typer(data.commands, name="data")

EXIT_MISTAKE, EXIT_INTERRUPTED, EXIT_STOPPED = 2, 75, 130
# Typer carries a click of its own, and names its errors only through their subclass.
ClickException: Any = next(
    base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException"
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command, and exit.

    The code is 0, 1 (`doctor` or `data check` found a problem), 2 (a user's mistake), 75 (stopped
    by a signal, the run can go on) or 130 (interrupted).
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    wants_traceback = "--traceback" in words
    words = [word for word in words if word != "--traceback"]
    sys.exit(_run(words, wants_traceback))


def _run(words: Sequence[str], wants_traceback: bool) -> int:
    from vpt.errors import VptError

    try:
        with _joined(words) as joined:
            code = _answer(words, wants_traceback)
            if joined:
                # torchrun ends the last ones with a signal, which would take the code's place
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            return code
    except VptError as error:  # the other processes are not there
        return _fail(str(error), EXIT_MISTAKE, wants_traceback)


def _joined(words: Sequence[str]) -> AbstractContextManager[bool]:
    """The processes that torchrun started, for the one command that they share; whether any."""
    if words[:1] != ["train"] or "WORLD_SIZE" not in os.environ:
        return nullcontext(False)
    from vpt.engine.distributed import joined

    return joined()


def _stopping(words: Sequence[str]) -> AbstractContextManager[None]:
    """An answer to signals from a training's first moment on; torchrun's processes have no own."""
    if words[:1] != ["train"] or "WORLD_SIZE" in os.environ:
        return nullcontext()
    from vpt.engine.interrupt import exiting_at_once

    message = "vpt: stopped by {signal} outside the training steps; go on with --resume"
    return exiting_at_once(EXIT_INTERRUPTED, message, on_sigint="--resume" in words)


def _answer(words: Sequence[str], wants_traceback: bool) -> int:
    from vpt.engine.interrupt import Interrupted
    from vpt.errors import VptError

    for library in ("huggingface_hub", "timm"):  # their errors come as ours, in one line
        logging.getLogger(library).setLevel(logging.CRITICAL)
    try:
        with _stopping(words):
            code = app(words, prog_name="vpt", standalone_mode=False)
        if code == EXIT_STOPPED:  # as Typer answers a KeyboardInterrupt
            return _fail("interrupted", code, wants_traceback)
        return code if isinstance(code, int) else 0
    except VptError as error:
        return _fail(str(error), EXIT_MISTAKE, wants_traceback)
    except ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # a bare `vpt` asks what there is
            typer.echo(error.format_message())
            return 0
        return _fail(refusal(error, words), EXIT_MISTAKE, wants_traceback)
    except Interrupted as stop:
        return _fail(str(stop), EXIT_INTERRUPTED, wants_traceback)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", EXIT_STOPPED, wants_traceback)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(str(error), EXIT_MISTAKE, wants_traceback)


def _fail(message: str, code: int, wants_traceback: bool) -> int:
    if wants_traceback:
        traceback.print_exc()
    if _is_new(message):
        complain(message)
    return code


def _is_new(message: str) -> bool:
    """Whether no other process of this run has printed this message."""
    if "WORLD_SIZE" not in os.environ:
        return True
    from vpt.engine.distributed import first_to_say

    return first_to_say(message)
