"""Prompt files as an attacker would write them, and what loading one may never do.

`python -m tests.hostile_prompts --raw 100000 --sealed 2000` tries so many and prints what happened;
the tests try a few. Raw files have changed bytes, which the seal tells. Sealed ones have a changed
header or tensor under a seal that is right, for the seal is a checksum and no signature.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import vpt
from vpt.data import box_evaluation_transform, evaluation_transform
from vpt.engine.prompt_file import read_prompt_file, read_prompt_header
from vpt.errors import VptError
from vpt.storage import sealed_file
from vpt.storage.sealed_file import read_sealed

FILES = Path(__file__).parent / "prompt_files"
NAMES = ("linear", "zero_shot", "sentences", "detector")
CANARY = "canary-that-nobody-may-open.json"
MOST_SECONDS = 30
_DEEP: list[Any] = []
for _ in range(40):
    _DEEP = [_DEEP]
_DEEPER: dict[str, Any] = {}
for _ in range(200):
    _DEEPER = {"a": _DEEPER}

VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 3, 2**31, 2**63, 10**18, 10**30, -(2**63), 10**4000),
    *(0.0, -0.5, 0.5, 1e-300, 1e-30, 1e30, 1e308, math.nan, math.inf, -math.inf),
    *("", "0", "nan", " ", "x" * 100_000, "\x1b[2J", "\u202e", "\ud800", "\0", "a\nb", "{}"),
    *(CANARY, f"{CANARY}#a", f"../{CANARY}", "/dev/zero", "/etc/passwd", "all", "full"),
    *("last:9999", "linear", "mlp", "zero_shot", "linear_from_text", "fcos", "vpt_deep", "pixels"),
    *("timm/vit_giant_patch14_dinov2.lvd142m", "timm/vit_7b_patch16_dinov3.lvd1689m", "${a}"),
    *("open_clip/ViT-bigG-14:laion2b_s39b_b160k", "bundled/glyph_clip", "bundled/glyph_vit"),
    *([], [[]], [None], [0], [-1], [0, 0], [10**9] * 2, [10**9] * 3, [1e308] * 3, [0.0] * 3),
    *([math.nan] * 3, ["x"], ["x", "x"], ["x", "y", "z"], ["{}"], ["x" * 10_000], ["a"] * 9_999),
    *(list(range(300_000)), list(range(10_000)), [[1, 2], [3]], [{}], [{"name": "none"}] * 1_000),
    *(
        {},
        {"name": 3},
        {"name": "none"},
        {"first": 10**9},
        {"last": 10**9},
        {"first": 1, "last": 1},
    ),
    {"name": "vpt_deep", "num_tokens": 500_000},
    {"name": "mlp", "width": 10**9, "num_classes": 3},
    {"name": "mlp", "layers": 10**6, "num_classes": 3},
    {"name": "linear", "num_classes": 3_000_000},
    {"name": "zero_shot", "templates": CANARY, "num_classes": 2},
    {str(number): number for number in range(60_000)},
    *({"circle": ["a"], "square": CANARY}, {"circle": [], "square": ["b"]}),
    *({"train": [], "data": 3}, {"train": {"precision": "fp8"}}, {"data": {"batch_size": 10**12}}),
    *(_DEEP, _DEEPER),
]
"""What is put in place of a value of the header; the header keeps its other values."""


@dataclass
class Tally:
    """What happened to the files that were tried."""

    refused: int = 0
    accepted: int = 0
    faults: list[str] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def tried(self) -> int:
        return self.refused + self.accepted + len(self.faults)


def raw_files(count: int, seed: int = 0) -> Iterator[bytes]:
    """Files of which some bytes were changed, lost, doubled or cut off."""
    generator = random.Random(seed)
    originals = [(FILES / f"{name}.safetensors").read_bytes() for name in NAMES]
    for _ in range(count):
        raw = bytearray(generator.choice(originals))
        for _ in range(generator.choice([1, 1, 1, 2, 8])):
            # Mostly in the head, where the sizes and the header are.
            end = len(raw) if generator.random() < 0.3 else min(len(raw), 1_500)
            place = generator.randrange(max(1, end))
            kind = generator.randrange(5)
            if kind == 0 and place < len(raw):
                raw[place] ^= generator.randrange(1, 256)
            elif kind == 1:
                raw[place:place] = generator.randbytes(generator.choice([1, 2, 9]))
            elif kind == 2:
                del raw[place : place + generator.choice([1, 2, 9])]
            elif kind == 3:
                del raw[place:]
            else:
                raw[place : place + 4] = generator.choice([b"1e99", b"null", b'":{}', b"\xff" * 4])
        if bytes(raw) not in originals:
            yield bytes(raw)


def sealed_files(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """(what was changed, the file): a value of the header, a key more or less, or a tensor."""
    generator = random.Random(seed)
    originals = {name: read_sealed(FILES / f"{name}.safetensors") for name in NAMES}
    changes = [
        (name, path, number)
        for name, (header, _) in originals.items()
        for path in _paths(header)
        for number in range(len(VALUES))
    ]
    generator.shuffle(changes)
    # Every field once, before any gets a second value.
    seen: Counter[Any] = Counter()
    order = []
    for name, path, number in changes:
        order.append((seen[name, path], name, path, number))
        seen[name, path] += 1
    order.sort(key=lambda each: each[0])
    for position, (_, name, path, number) in enumerate(order[:count]):
        header, tensors = copy.deepcopy(originals[name])
        what = f"{name} {'.'.join(map(str, path))} = {VALUES[number]!r:.60}"
        if position % 10 == 8:
            what = _change_keys(header, path, generator)
        elif position % 10 == 9:
            tensors = dict(tensors)
            what = _change_tensor(tensors, generator)
        else:
            _put(header, path, VALUES[number])
        yield what, _sealed(header, tensors)


def _paths(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items: Any = node.items() if isinstance(node, dict) else ()
    if isinstance(node, list):
        items = enumerate(node)
    for key, value in items:
        yield (*path, key)
        yield from _paths(value, (*path, key))


def _put(node: Any, path: tuple[Any, ...], value: Any) -> None:
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value


def _change_keys(header: dict[str, Any], path: tuple[Any, ...], generator: random.Random) -> str:
    node: Any = header
    for step in path[:-1]:
        node = node[step]
    if generator.random() < 0.5:
        del node[path[-1]]
        return f"without {'.'.join(map(str, path))}"
    if isinstance(node, dict):
        node["novelty"] = generator.choice(VALUES)
    else:
        node.append(generator.choice(VALUES))
    return f"more in {'.'.join(map(str, path[:-1]))}"


def _change_tensor(tensors: dict[str, torch.Tensor], generator: random.Random) -> str:
    name = generator.choice(sorted(tensors))
    tensor = tensors[name]
    kind = generator.choice(
        ["nan", "inf", "int", "bool", "double", "gone", "more", "longer", "flat"]
    )
    if kind in ("nan", "inf"):
        tensors[name] = torch.full_like(tensor, math.nan if kind == "nan" else -math.inf)
    elif kind == "gone":
        del tensors[name]
    elif kind == "more":
        tensors["head.\x1b[2Jnovelty"] = tensor.clone()
    elif kind == "longer":
        tensors[name] = torch.cat([tensor.reshape(-1), torch.zeros(7)])
    elif kind == "flat":
        tensors[name] = tensor.reshape(1, -1)
    else:
        dtype = {"int": torch.int64, "bool": torch.bool, "double": torch.float64}[kind]
        tensors[name] = tensor.to(dtype)
    return f"tensor {name} {kind}"


def _sealed(header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> bytes:
    """As vpt seals, but whatever the header holds: NaN, lone surrogates, endless lists."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    unlimited, sealed_file.HEAD_LIMIT = sealed_file.HEAD_LIMIT, 2**40
    try:
        head, data = sealed_file._seal(Path("hostile"), tensors, json.dumps(header))
        return head + data
    finally:
        sealed_file.HEAD_LIMIT = unlimited
        sys.set_int_max_str_digits(limit)


def read_only(path: Path) -> None:
    """What `show` does, and the tensors."""
    read_prompt_header(path).model_dump_json()
    read_prompt_file(path)


def use(path: Path) -> None:
    """Load a file as `predict` does and use the model once.

    Raises:
        AssertionError: it was accepted with a tensor that is not finite.
    """
    header = read_prompt_header(path)
    header.model_dump_json()
    assert header.precision
    assert header.eval_batch_size != 0
    image = Image.new("RGB", (40, 30), (10, 200, 90))
    if header.task == "detection":
        detector = vpt.load_detector(path)
        assert all(tensor.isfinite().all() for _, tensor in detector.trained_tensors())
        boxed = box_evaluation_transform(detector.preprocess)(image, np.zeros((0, 4)), 0)
        with torch.no_grad():
            detector(boxed.image[None])
        return
    model = vpt.load_prompt(path)
    assert all(tensor.isfinite().all() for _, tensor in model.trained_tensors())
    pixels = evaluation_transform(model.preprocess)(image, 0)
    with torch.no_grad():
        model(pixels[None])


def try_file(path: Path, content: bytes, what: str, action: Any, tally: Tally) -> None:
    """Write a file, load it, and note what happened."""
    path.write_bytes(content)
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(MOST_SECONDS)
    try:
        action(path)
        tally.accepted += 1
        tally.reasons[f"accepted: {what}"] += 1
    except VptError as error:
        tally.refused += 1
        if not str(error) or "\n" in str(error) or len(str(error)) > 2_000:
            tally.faults.append(f"{what}: not one line: {str(error)[:300]!r}")
    except BaseException:  # noqa: BLE001 - whatever it is, it is what is looked for
        tally.faults.append(f"{what}:\n{traceback.format_exc(limit=-6)}")
    finally:
        signal.alarm(0)


def _too_long(*_: Any) -> None:
    raise TimeoutError(f"more than {MOST_SECONDS} seconds")


def watch_canary(tally: Tally) -> None:
    """Count it as a fault if anything opens a file that only a header names."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and CANARY in str(arguments[0]):
            tally.faults.append(f"opened {arguments[0]}")

    sys.addaudithook(hook)


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--raw", type=int, default=1_000)
    parser.add_argument("--sealed", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    out = sys.stdout.write
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prompt.safetensors"
        for name in NAMES:  # so that imports and towers are no part of the peak
            use(FILES / f"{name}.safetensors")
        tally = Tally()
        watch_canary(tally)
        raw = ((f"raw {n}", content) for n, content in enumerate(raw_files(given.raw, given.seed)))
        kinds: list[tuple[str, Any, Any]] = [
            ("raw", raw, read_only),
            ("sealed", sealed_files(given.sealed, given.seed), use),
        ]
        for kind, files, action in kinds:
            before, began = peak_megabytes(), time.monotonic()
            tried = Tally(faults=tally.faults)
            for what, content in files:
                try_file(path, content, what, action, tried)
            out(
                f"{kind}: {tried.refused} refused, {tried.accepted} accepted, "
                f"{len(tried.faults)} faults, peak {peak_megabytes() - before:.0f} MB above the "
                f"start, {time.monotonic() - began:.0f} s\n"
            )
            for reason, times in sorted(tried.reasons.items()):
                out(f"  {times} x {reason}\n")
        for fault in tally.faults:
            out(f"FAULT {fault}\n")
        return 1 if tally.faults else 0


if __name__ == "__main__":
    sys.exit(main())
