"""`python tools/pretrain_bundled.py CONFIG CHECKPOINT [key=value ...]`: trains a bundled model."""

import sys

from vpt.cli import main

main(["pretrain-bundled", *sys.argv[1:]])
