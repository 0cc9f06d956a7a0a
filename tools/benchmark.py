"""`python tools/benchmark.py ...`: the same as `vpt benchmark ...`."""

import sys

from vpt.cli import main

main(["benchmark", *sys.argv[1:]])
