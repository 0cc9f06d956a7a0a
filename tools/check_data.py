"""`python tools/check_data.py ...`: the same as `vpt data check ...`."""

import sys

from vpt.cli import main

main(["data", "check", *sys.argv[1:]])
