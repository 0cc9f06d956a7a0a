"""What TensorBoard's projector shows: rows of numbers as points, each with its name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vpt.storage.atomic_file import remove_leftovers, write_atomic

if TYPE_CHECKING:
    from torch import Tensor

CONFIG_NAME = "projector_config.pbtxt"
"""The file by which TensorBoard finds the others; the name is its own."""

FILE_NAMES = re.compile(r"projector_config\.pbtxt|projector_\w+\.tsv")
"""Every file that is written here."""

_MOST_NUMBERS = 2**20
"""Of one cloud of points; a browser has to load them as text."""


@dataclass(frozen=True)
class Points:
    """Points of one cloud.

    Attributes:
        values: (K, D), at least one.
        names: K.
    """

    values: Tensor
    names: Sequence[str]


def write_projector(folder: Path, clouds: Mapping[str, Points]) -> None:
    """Write clouds of points into an existing TensorBoard folder, in the place of earlier ones.

    A cloud of more than a million numbers is left out.

    Args:
        folder: of the run's event files.
        clouds: by names of letters, digits and underscores.

    Raises:
        RunError: a file cannot be written.
    """
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

    remove_leftovers(folder)
    config = ProjectorConfig()
    for name, points in clouds.items():
        if points.values.numel() > _MOST_NUMBERS:
            continue
        values, names = (folder / f"projector_{name}{part}.tsv" for part in ("", "_names"))
        write_atomic(values, [_table(points.values).encode()])
        write_atomic(names, [_lines(points.names).encode()])
        embedding = config.embeddings.add()
        embedding.tensor_name, embedding.tensor_path = name, values.name
        embedding.metadata_path = names.name
    # protobuf's own text form, which is what the file is
    write_atomic(folder / CONFIG_NAME, [str(config).encode()])


def _table(values: Tensor) -> str:
    rows = values.detach().cpu().float().tolist()
    return "".join("\t".join(f"{value:.6g}" for value in row) + "\n" for row in rows)


def _lines(names: Sequence[str]) -> str:
    """A name a line; one column has no heading."""
    return "".join(" ".join(name.split()) + "\n" for name in names)
