"""`python tools/evaluate.py ...`: the same as `vpt evaluate ...`."""

import sys

from vpt.cli import main

main(["evaluate", *sys.argv[1:]])
