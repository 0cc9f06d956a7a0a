"""A check of data as one HTML page: no script, no other file, no network."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from vpt.config import BoxTransformConfig
from vpt.data.boxes.detection import KINDS, DetectionSample, DetectionSplit, Finding
from vpt.data.images import read_image
from vpt.data.loading.loader import load_sample
from vpt.data.splits import Sample, Split
from vpt.data.transforms.boxes import BoxTransform, box_training_transform
from vpt.engine.run_dir import write_json_atomic, write_text_atomic
from vpt.errors import DataError
from vpt.reports.data_check import (
    SHOWN_PER_KIND,
    Bins,
    DataCheck,
    SplitSummary,
    overview,
    to_json,
    to_look_at,
    verdict,
)
from vpt.runs.drawing import draw_boxes
from vpt.structures import Preprocess

_PICTURES = 12
_AUGMENTED = 8
_PICTURE_SIDE = 320
_CLASSES_SHOWN = 60


def write_check(check: DataCheck, directory: Path) -> None:
    """Write check.json and index.html into a directory, which is made.

    Raises:
        RunError: a file cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    write_json_atomic(directory / "check.json", to_json(check))
    write_text_atomic(directory / "index.html", data_page(check))


def data_page(check: DataCheck) -> str:
    """The page, with pictures as data URIs."""
    name = escape(check.descriptor.name)
    parts = [
        f"<h1>{name}</h1>",
        f'<p class="{"good" if check.healthy else "bad"}">{escape(verdict(check))}</p>',
        _facts(check),
        _overview(check),
        _findings(check),
        *(_split(check, split, summary) for split, summary in check.splits.items()),
        _augmented(check),
    ]
    return _PAGE.format(title=name, body="\n".join(part for part in parts if part))


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --line: #8884; --bar: #0072b2; --soft: #8881; }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto;
  padding: 0 1rem; }}
h1 {{ margin-bottom: 0; }}
h2 {{ margin-top: 2.5rem; border-bottom: 1px solid var(--line); }}
h3 {{ margin-bottom: .4rem; }}
table {{ border-collapse: collapse; }}
td, th {{ padding: .15rem .8rem .15rem 0; text-align: right; vertical-align: top; }}
td:first-child, th:first-child, .text td, .text th {{ text-align: left; }}
tr + tr > * {{ border-top: 1px solid var(--line); }}
.good {{ color: #009e73; font-weight: 600; }}
.bad, .error {{ color: #d5380d; font-weight: 600; }}
.warning {{ color: #b37400; font-weight: 600; }}
.charts {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr));
  gap: 0 2rem; }}
.bars {{ display: grid; grid-template-columns: max-content 1fr max-content; gap: 2px .6rem;
  align-items: center; font-size: 13px; }}
.bars i {{ background: var(--bar); height: .8em; min-width: 1px; border-radius: 2px; }}
.bars span:nth-child(3n) {{ text-align: right; font-variant-numeric: tabular-nums; }}
.bars span:nth-child(3n+1) {{ max-width: 16em; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; }}
.pictures {{ display: flex; flex-wrap: wrap; gap: 12px; }}
figure {{ margin: 0; max-width: 320px; }}
figure img {{ display: block; max-width: 100%; border: 1px solid var(--line); }}
figcaption {{ font-size: 12px; overflow-wrap: anywhere; opacity: .8; }}
details {{ margin: .3rem 0; }}
summary {{ cursor: pointer; }}
details ul {{ margin: .3rem 0; font: 13px/1.4 ui-monospace, monospace; overflow-wrap: anywhere; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


# Words and numbers


def _facts(check: DataCheck) -> str:
    facts = {"descriptor": str(check.source), "licence": check.descriptor.licence}
    facts["source"] = check.descriptor.source
    rows = "".join(
        f"<tr><td>{key}</td><td>{escape(value)}</td></tr>" for key, value in facts.items() if value
    )
    return f'<table class="text">{rows}</table>'


def _overview(check: DataCheck) -> str:
    columns, *rows = overview(check)
    table = _row(columns, "th") + "".join(map(_row, rows))
    boxes = any(summary.boxes is not None for summary in check.splits.values())
    note = (
        "<p>AP of itself: the boxes (of 2,000 images at most) as predictions of themselves, "
        f"through the square of {check.size} pixels and back; it has to be 1. Negatives have "
        "nothing to be found.</p>"
    )
    return f"<h2>Splits</h2><table>{table}</table>{note if boxes else ''}"


def _row(cells: Iterable[str], tag: str = "td") -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _findings(check: DataCheck) -> str:
    groups = check.by_kind()
    if not groups:
        return "<h2>Findings</h2><p>None.</p>"
    return "<h2>Findings</h2>" + "".join(_group(kind, group) for kind, group in groups.items())


def _group(kind: str, group: Sequence[Finding]) -> str:
    severity, meaning = KINDS[kind]
    lines = "".join(f"<li>{escape(str(finding))}</li>" for finding in group[:SHOWN_PER_KIND])
    if len(group) > SHOWN_PER_KIND:
        lines += f"<li>and {len(group) - SHOWN_PER_KIND:,} more, all of them in check.json</li>"
    return (
        f"<details{' open' if severity == 'error' else ''}><summary>"
        f'<span class="{severity}">{severity}</span> {kind} ({len(group):,}): {escape(meaning)}'
        f"</summary><ul>{lines}</ul></details>"
    )


# Charts


def _split(check: DataCheck, name: str, summary: SplitSummary) -> str:
    charts = [
        _chart(
            "boxes per class" if summary.boxes is not None else "images per class",
            _largest_classes(check.class_names, summary.class_counts),
        )
    ]
    if summary.boxes is not None:
        charts += [
            _chart("boxes per image", summary.boxes_per_image),
            _chart(f"box size in pixels, seen at {check.size}", summary.box_sides),
            _chart("width : height of boxes", summary.aspects),
            _chart("COCO's sizes, in the files' pixels", summary.areas),
        ]
    if summary.labels_per_image:
        charts.append(_chart("labels per image", summary.labels_per_image))
    charts.append(_chart("most frequent image sizes", summary.image_sizes))
    return f'<h2>{escape(name)}</h2><div class="charts">{"".join(charts)}</div>' + _pictures(
        check.data[name]
    )


def _largest_classes(names: Sequence[str], counts: Sequence[int]) -> Bins:
    ranked = sorted(zip(names, counts, strict=True), key=lambda pair: -pair[1])
    rest = ranked[_CLASSES_SHOWN:]
    others = ((f"{len(rest)} more classes", sum(count for _, count in rest)),) if rest else ()
    return (*ranked[:_CLASSES_SHOWN], *others)


def _chart(title: str, bins: Bins) -> str:
    most = max((count for _, count in bins), default=0)
    bars = "".join(
        f'<span title="{escape(label)}">{escape(label)}</span>'
        f'<i style="width:{100 * count / most if most else 0:.1f}%"></i><span>{count:,}</span>'
        for label, count in bins
    )
    return f'<div><h3>{escape(title)}</h3><div class="bars">{bars}</div></div>'


# Pictures


def _pictures(split: Split | DetectionSplit) -> str:
    figures: list[str] = []
    for sample in to_look_at(split.samples):
        if len(figures) == _PICTURES:
            break
        try:
            figures.append(_figure(_picture(split, sample), _caption(split, sample)))
        except DataError:
            continue  # among the findings already
    return f'<h3>some images</h3><div class="pictures">{"".join(figures)}</div>'


def _picture(split: Split | DetectionSplit, sample: Sample | DetectionSample) -> Image.Image:
    if isinstance(sample, DetectionSample):
        image = read_image(sample.source)
    else:
        assert isinstance(split, Split)
        image = load_sample(split, sample)
    scale = min(1.0, _PICTURE_SIDE / max(image.size))
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    picture = image.resize(size, Image.Resampling.LANCZOS)
    if isinstance(sample, DetectionSample):
        ratios = np.tile([size[0] / image.width, size[1] / image.height], 2)
        crowds = zip(sample.labels.tolist(), sample.crowds.tolist(), strict=True)
        names = [split.class_names[label] + " (crowd)" * crowd for label, crowd in crowds]
        picture = draw_boxes(picture, sample.boxes * ratios, sample.labels.tolist(), names)
    return picture


def _caption(split: Split | DetectionSplit, sample: Sample | DetectionSample) -> str:
    if isinstance(sample, Sample):
        names = ", ".join(split.class_names[label] for label in sample.classes)
        return f"{sample.key}: {names or 'no label'}"
    count = len(sample.target_boxes)
    boxes = "no target" if count == 0 else f"{count} box{'' if count == 1 else 'es'}"
    return f"{sample.key}: {sample.size[1]} x {sample.size[0]}, {boxes}"


def _figure(image: Image.Image, caption: str) -> str:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=80)
    data = base64.b64encode(stream.getvalue()).decode()
    return (
        f'<figure><img alt="{escape(caption)}" width="{image.width}" height="{image.height}" '
        f'src="data:image/jpeg;base64,{data}"><figcaption>{escape(caption)}</figcaption></figure>'
    )


def _augmented(check: DataCheck) -> str:
    """Training images as a detector sees them with the default options."""
    train = check.data.get("train")
    if not isinstance(train, DetectionSplit):
        return ""
    shown = to_look_at(train.samples)[: math.ceil(_AUGMENTED / 2)]
    grey = Preprocess((_PICTURE_SIDE, _PICTURE_SIDE), (0.5, 0.5, 0.5), (1.0, 1.0, 1.0))
    transform = box_training_transform(grey, BoxTransformConfig())
    figures = []
    for number in range(_AUGMENTED):
        sample = shown[number % len(shown)]
        try:
            figures.append(_seen(sample, transform, number, check.class_names))
        except DataError:
            continue
    return (
        "<h2>train, augmented</h2><p>As a detector sees them with the default options, at another "
        f'random scale, crop, flip and colour each time.</p><div class="pictures">'
        f"{''.join(figures)}</div>"
    )


def _seen(
    sample: DetectionSample, transform: BoxTransform, seed: int, class_names: Sequence[str]
) -> str:
    seen = transform(read_image(sample.source), sample.target_boxes, seed)
    pixels = ((seen.image + 0.5) * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    labels = sample.target_labels[seen.rows.numpy()].tolist()
    names = [class_names[label] for label in labels]
    return _figure(draw_boxes(picture, seen.boxes.tolist(), labels, names), sample.key)
