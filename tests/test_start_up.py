"""What commands and packages import: nothing that their work does not need."""

from __future__ import annotations

import importlib
import json
import pkgutil
import py_compile
import subprocess
import sys
from pathlib import Path

import pytest

import vpt
from tests.fixtures import make_folder, make_image

LAZY = [
    name
    for _, name, is_package in pkgutil.walk_packages(vpt.__path__, "vpt.")
    if is_package and hasattr(importlib.import_module(name), "__getattr__")
]
NEVER = {"open_clip", "pycocotools", "sklearn", "optuna", "faster_coco_eval", "pyarrow"}
"""No command that handles one class per image on a timm backbone imports these."""

_REPORT = """
import json, sys
from vpt.cli import main
for words in json.loads(sys.argv[1]):
    try:
        main(words)
    except SystemExit as stop:
        found = [] if stop.code else [name for name in sys.modules if "." not in name]
        print("IMPORTED", json.dumps(found), file=sys.stderr)
"""


def imported_by(*commands: list[str]) -> list[set[str]]:
    """The top-level modules that are there after each command, run in one fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", _REPORT, json.dumps(commands)],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("IMPORTED ")]
    found = [set(json.loads(line.removeprefix("IMPORTED "))) for line in lines]
    assert all(found), done.stderr
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("start")
    make_folder(place / "photos")
    make_image(1).save(place / "one.png")
    names = ["class_0", "class_1"]
    model = vpt.create_model("bundled/glyph_vit", "vpt_deep", class_names=names)
    vpt.save_prompt(model, place / "prompt.safetensors")
    (place / "config.yaml").write_text(
        f"""
run_dir: {place}/run
backbone: {{name: bundled/glyph_vit, pretrained: false}}
data: {{dataset: {place}/photos, batch_size: 6, num_workers: 0}}
optim: {{lr: 1e-2}}
train: {{epochs: 1, device: cpu}}
"""
    )
    return place


def test_classification_commands__import_only_what_their_task_needs(place):
    prompt, data = str(place / "prompt.safetensors"), str(place / "photos")
    predict, evaluate, train = imported_by(
        ["predict", prompt, str(place / "one.png")],
        ["evaluate", prompt, "--data", data, "--num-workers", "0"],
        ["train", str(place / "config.yaml")],
    )
    assert "timm" in predict
    own_work = {"torchmetrics", "albumentations", "tensorboard", "scipy", "matplotlib", "cv2"}
    assert not predict & (NEVER | own_work)
    assert not evaluate & (NEVER | {"albumentations", "tensorboard"})
    assert not train & NEVER
    assert {"albumentations", "tensorboard"} <= train


def test_checking_a_config__imports_no_torch(place):
    code = (
        "import sys; from pathlib import Path; from vpt.config import load_config;"
        f"load_config(Path({str(place / 'config.yaml')!r}), ['prompt=vpt_shallow', 'head=mlp']);"
        "print(sorted({'torch', 'timm', 'numpy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", ["vpt", *LAZY])
def test_lazy_package__lists_and_gives_every_name(name):
    package = importlib.import_module(name)
    assert set(dir(package)) == set(package.__all__)
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    assert not modules & set(package.__all__)  # a module would hide the name
    assert all(getattr(package, each) is not None for each in package.__all__)


def test_lazy_packages__are_many():
    assert len(LAZY) >= 11


def test_lazy_package__unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"module 'vpt\.data' has no attribute 'Nothing'"):
        importlib.import_module("vpt.data").Nothing  # noqa: B018


def test_lazy_package__without_its_source__is_an_import_error(tmp_path, monkeypatch):
    source = tmp_path / "sourceless" / "__init__.py"
    source.parent.mkdir()
    source.write_text(
        "from vpt.lazy import lazy_names\n__getattr__, __dir__ = lazy_names(__name__)\n"
    )
    py_compile.compile(str(source), cfile=str(source.with_suffix(".pyc")))
    source.unlink()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=r"sourceless is installed without its __init__\.py"):
        importlib.import_module("sourceless")
