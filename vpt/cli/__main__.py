"""`python -m vpt.cli`, for torchrun."""

from vpt.cli import main

main()
