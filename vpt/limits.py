"""The most that is supported of what a config, a descriptor or a prompt file can ask for."""

MAX_SIDE = 8_192
"""Pixels of an image's side that a model takes."""

MAX_PATCHES = 65_536
"""Patch tokens of an image: a grid of 256 x 256."""

MAX_CLASSES = 1_000_000
"""Classes of a model."""

MAX_NAME = 1_000
"""Characters of a class name."""

MAX_VALUES = 500_000_000
"""Trained values of a prompt, a neck or a head: 2 GB without the optimiser's averages."""

MAX_METHODS = 32
"""Prompt methods side by side."""
