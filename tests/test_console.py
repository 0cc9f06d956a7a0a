"""What other people wrote reaches the terminal as text, and commands nothing."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from vpt.cli import main, terminal
from vpt.console import SafeConsole, SafeStream, escaped
from vpt.engine.progress import bytes_progress
from vpt.runs.outputs import opened

HOSTILE = "a\x1b[2J\x1b]0;title\x07\x9b31m\u202eb\r\x08\udcff\u2028c"
SHOWN = r"a\u001b[2J\u001b]0;title\u0007\u009b31m\u202eb\u000d\u0008\udcff\u2028c"


def test_escaped__leaves_text_tabs_and_lines_as_they_are():
    assert escaped(HOSTILE) == SHOWN
    plain = "Ä naïve 日本語 😀\t[red]x[/]\nnext \\u001b"
    assert escaped(plain) == plain


def drawn(renderable) -> str:
    file = io.StringIO()
    SafeConsole(file=file, width=200, markup=False).print(renderable)
    return file.getvalue()


def test_lines_and_tables__show_what_would_be_obeyed():
    table = Table(title=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    for renderable in (HOSTILE, table):
        text = drawn(renderable)
        assert (
            SHOWN.replace(r"\u0008", "").replace(r"\u0007", "").replace(r"\u000d", "")[:8] in text
        )
        assert not set(text) & set("\x1b\x07\x9b\u202e\r\x08\udcff\u2028")


def test_a_terminals_own_colours_and_bars__are_kept():
    file = io.StringIO()
    console = SafeConsole(file=file, force_terminal=True, width=80, color_system="standard")
    console.print("red", style="red")
    assert "\x1b[31mred\x1b[0m" in file.getvalue()
    with Progress(console=console) as bar:
        bar.add_task("x", total=2, completed=1)
    assert "\x1b[" in file.getvalue()


def test_the_bar_of_a_download__shows_a_name_as_it_is_and_harmless():
    file = io.StringIO()
    console = SafeConsole(file=file, force_terminal=True, width=120)
    with bytes_progress("[/red]\x1b[2J.zip", console, print) as show:
        show(1, 2)
    assert r"[/red]\u001b[" in file.getvalue()
    assert "[/red]\x1b" not in file.getvalue()


def test_every_line_of_a_command__goes_through_one_place(capsys, monkeypatch):
    assert isinstance(terminal.out, SafeConsole)
    assert isinstance(terminal.err, SafeConsole)
    with pytest.raises(SystemExit) as caught:
        main(["predict", "none.safetensors", f"{HOSTILE[:5]}.png"])
    assert caught.value.code == 2
    with pytest.raises(SystemExit):
        main(["evaluate", "none\x1b[2J.safetensors", "--data", "x"])
    said = capsys.readouterr().err
    assert r"none\u001b[2J.safetensors" in said
    assert "\x1b" not in said


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_rows_on_a_terminal__are_escaped__and_in_a_pipe_they_are_not(monkeypatch):
    for stream, expected in ((Terminal(), r"\u001b"), (io.StringIO(), "\x1b")):
        monkeypatch.setattr(sys, "stdout", stream)
        with opened(None) as rows:
            rows.write("\x1b,1\n")
            rows.flush()
        assert stream.getvalue() == f"{expected},1\n"
    assert SafeStream(Terminal()).write("\x1b") == len(r"\u001b")


def test_a_rich_console__would_have_obeyed():
    file = io.StringIO()
    Console(file=file).print("\x1b[2J")
    assert "\x1b[2J" in file.getvalue()
