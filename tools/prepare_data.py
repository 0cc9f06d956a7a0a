"""`python tools/prepare_data.py ...`: the same as `vpt data get ...`."""

import sys

from vpt.cli import main

main(["data", "get", *sys.argv[1:]])
