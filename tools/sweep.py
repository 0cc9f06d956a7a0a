"""`python tools/sweep.py ...`: the same as `vpt sweep ...`."""

import sys

from vpt.cli import main

main(["sweep", *sys.argv[1:]])
