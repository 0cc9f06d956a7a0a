"""`python tools/clip_eval.py ...`: the same as `vpt clip-eval ...`."""

import sys

from vpt.cli import main

main(["clip-eval", *sys.argv[1:]])
