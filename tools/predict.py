"""`python tools/predict.py ...`: the same as `vpt predict ...`."""

import sys

from vpt.cli import main

main(["predict", *sys.argv[1:]])
