"""`python tools/report.py ...`: the same as `vpt report ...`."""

import sys

from vpt.cli import main

main(["report", *sys.argv[1:]])
