"""The commands: one typed function each, one file per group of them.

A user's mistake is one line on stderr and exit code 2.
"""

from vpt.cli.program import app, main

__all__ = ["app", "main"]
