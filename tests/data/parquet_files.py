"""Parquet files as the `datasets` library of Hugging Face writes them."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.fixtures import make_image

IMAGE = {"_type": "Image"}
PACKED = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def class_label(*names: str) -> dict[str, Any]:
    return {"names": list(names), "_type": "ClassLabel"}


def encoded(seed: int) -> bytes:
    stream = io.BytesIO()
    make_image(seed).save(stream, "PNG")
    return stream.getvalue()


def write_table(
    path: Path,
    columns: dict[str, pa.Array],
    features: dict[str, Any] | None = None,
    *,
    row_group_size: int = 2,
) -> Path:
    """One file; with features in the schema's metadata, under the key that `datasets` uses."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if features is not None:
        text = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": text})
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def images(seeds: Sequence[int]) -> pa.Array:
    """A column of the Image feature: bytes, and the file name they once had."""
    rows = [{"bytes": encoded(seed), "path": f"{seed}.png"} for seed in seeds]
    return pa.array(rows, type=PACKED)


def make_parquet(root: Path, *, classes: Sequence[str] = ("cat", "dog")) -> Path:
    """root/data/{train,validation,test}-*.parquet: ten images in two files, four, four."""
    shards = {
        "train-00000-of-00002": range(6),
        "train-00001-of-00002": range(6, 10),
        "validation-00000-of-00001": range(10, 14),
        "test-00000-of-00001": range(14, 18),
    }
    features = {"image": IMAGE, "label": class_label(*classes)}
    for name, seeds in shards.items():
        labels = pa.array([seed % len(classes) for seed in seeds], pa.int64())
        columns = {"image": images(seeds), "label": labels}
        write_table(root / "data" / f"{name}.parquet", columns, features)
    return root
