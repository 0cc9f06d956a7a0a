"""How much memory large data and many classes take: `python benchmarks/memory.py [case ...]`.

Each case runs in a fresh interpreter. What is reported is the growth of its memory over what it
held once everything was imported: at the end, and at its peak. Made data lie in a temporary folder
(`--folder` keeps them for the next time): images are links to one file, or empty files, as nothing
is decoded. Linux only, as the numbers come from /proc.
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CLASSES, IMAGES = 1000, 1300  # folders, and files in each
COCO_IMAGES, COCO_BOXES = 100_000, 8  # images, and boxes in each
MB = 2**20


# Data


def image_folder(folder: Path, per_class: int) -> Path:
    """train/<class>/<name>.JPEG, empty files; and all.csv, which lists them."""
    root = folder / f"images_{per_class}"
    if (root / "all.csv").exists():
        return root
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        for number in range(CLASSES):
            name = f"n{number * 7919 % 10**8:08d}"
            below = root / "train" / name
            below.mkdir(parents=True, exist_ok=True)
            for image in range(per_class):
                key = f"train/{name}/{name}_{image}.JPEG"
                os.close(os.open(root / key, os.O_CREAT | os.O_WRONLY))
                writer.writerow([key, name, "train"])
    shutil.move(folder / "rows.csv", root / "all.csv")
    return root


def coco_folder(folder: Path, images: int) -> Path:
    """annotations/train.json with `COCO_BOXES` boxes an image, and links to one image."""
    from PIL import Image

    root = folder / f"coco_{images}"
    if (root / "annotations/train.json").exists():
        return root
    (root / "annotations").mkdir(parents=True)
    (root / "images").mkdir()
    Image.new("RGB", (640, 480)).save(root / "one.jpg")
    content: dict[str, list[Any]] = {"images": [], "annotations": []}
    content["categories"] = [{"id": each, "name": f"kind {each}"} for each in range(1, 81)]
    for number in range(images):
        name = f"{number:012d}.jpg"
        (root / "images" / name).symlink_to(root / "one.jpg")
        content["images"].append({"id": number, "file_name": name, "height": 480, "width": 640})
        for box in range(COCO_BOXES):
            x, y, width, height = 10.25 + 7 * box, 20.5 + number % 100, 80.75 + box, 60.125
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": number,
                    "category_id": 1 + (number + box) % 80,
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
    (root / "annotations/train.json").write_text(json.dumps(content))
    return root


# Memory


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def _private() -> int:
    """Bytes that this process alone holds, whatever it shares with the one that it was made of."""
    total = 0
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith(("Private_Clean:", "Private_Dirty:")):
            total += int(line.split()[1]) * 1024
    return total


def measured(work: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    """Growth of this process's memory by some work, in MB, its seconds, and what it gave."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
    start, began = _status("VmRSS"), time.monotonic()
    result = work()
    seconds = time.monotonic() - began
    gc.collect()
    found = {
        "peak": (_status("VmHWM") - start) / MB,
        "end": (_status("VmRSS") - start) / MB,
        "seconds": seconds,
    }
    return {name: round(value, 1) for name, value in found.items()}, result


def _worker_growth(samples: Any) -> float:
    """Private MB of a loader's worker that has gone once through all samples."""
    from torch.utils.data import DataLoader, Dataset

    class Touched(Dataset[int]):
        def __len__(self) -> int:
            return len(samples)

        def __getitem__(self, index: int) -> int:
            sample = samples[index]
            touched = hash((sample.key, sample.source, getattr(sample, "label", None)))
            return _private() if index == len(samples) - 1 else touched * 0

    from functools import partial

    from vpt.data.loading.workers import start_worker

    loader: Any = DataLoader(
        Touched(),
        batch_size=256,
        num_workers=1,
        worker_init_fn=partial(start_worker, owner=os.getpid()),
    )
    last = 0
    for batch in loader:
        last = int(batch.max())
    return round(last / MB, 1)


# Cases


def folder_case(folder: Path, scale: float) -> dict[str, float]:
    """Reading 1.3 million paths of a folder with 1,000 classes, and an epoch of a worker."""
    from vpt.data import Descriptor, read_splits

    root = image_folder(folder, int(IMAGES * scale))
    descriptor = Descriptor(name="images", format="folder", root=root)
    found, splits = measured(lambda: read_splits(descriptor))
    return found | {"worker": _worker_growth(splits.require("train").samples)}


def csv_case(folder: Path, scale: float) -> dict[str, float]:
    """The same paths from a CSV file."""
    from vpt.data import Descriptor, read_splits

    root = image_folder(folder, int(IMAGES * scale))
    descriptor = Descriptor.model_validate(
        {
            "name": "images",
            "format": "csv",
            "root": root,
            "file": "all.csv",
            "columns": {"path": "path", "label": "label", "split": "split"},
        }
    )
    found, splits = measured(lambda: read_splits(descriptor))
    return found | {"worker": _worker_growth(splits.require("train").samples)}


def coco_case(folder: Path, scale: float) -> dict[str, float]:
    """Reading 100,000 images with 800,000 boxes in COCO's format, and an epoch of a worker."""
    from vpt.data import Descriptor, boxes_hash, read_detection

    root = coco_folder(folder, int(COCO_IMAGES * scale))
    descriptor = Descriptor.model_validate(
        {"name": "boxes", "format": "coco", "root": root, "images": "images"}
    )
    found, splits = measured(lambda: read_detection(descriptor))
    train = splits.require("train")
    hashing, _ = measured(lambda: boxes_hash(train))
    return found | {"hash_peak": hashing["peak"], "worker": _worker_growth(train.samples)}


def metrics_case(folder: Path, scale: float) -> dict[str, float]:
    """Metrics of 50,000 images and 10,000 classes, one label each."""
    import torch

    from vpt.evaluation import ClassificationEvaluator

    images, classes = int(50_000 * scale), 10_000

    def work() -> dict[str, float]:
        evaluator = ClassificationEvaluator(classes)
        for start in range(0, images, 64):
            logits = torch.randn(min(64, images - start), classes)
            evaluator.update(logits, logits.argmax(dim=1) // 2 * 2)
        evaluator.per_class_accuracy()
        evaluator.worst_mistakes(16)
        return evaluator.compute()

    return measured(work)[0]


CASES: dict[str, Callable[[Path, float], dict[str, float]]] = {
    "folder": folder_case,
    "csv": csv_case,
    "coco": coco_case,
    "metrics": metrics_case,
}


def main() -> None:
    """Run the cases, each in an interpreter of its own, and print a line for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="case")
    parser.add_argument("--folder", type=Path, help="keep the data here")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the images")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        import vpt.data
        import vpt.evaluation

        del vpt
        (case,) = given.cases
        sys.stdout.write(json.dumps(CASES[case](given.folder, given.scale)) + "\n")
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for case in given.cases or CASES:
            command = [sys.executable, __file__, case, "--inside", "--folder", str(folder)]
            command += ["--scale", str(given.scale)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            values = json.loads(done.stdout.splitlines()[-1])
            words = ", ".join(
                f"{name} {value:,} {'s' if name == 'seconds' else 'MB'}"
                for name, value in values.items()
            )
            sys.stdout.write(f"{case}: {CASES[case].__doc__}\n  {words}\n")


if __name__ == "__main__":
    main()
