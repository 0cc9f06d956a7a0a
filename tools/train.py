"""`python tools/train.py ...`: the same as `vpt train ...`."""

import sys

from vpt.cli import main

main(["train", *sys.argv[1:]])
