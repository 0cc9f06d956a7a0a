"""The README's code runs as it stands, and its commands exist."""

from __future__ import annotations

import re
import socket
import sys
import types
from pathlib import Path

import pytest
import torch
import typer
from pydantic import Field

import vpt
from tests.data.coco_files import make_coco
from tests.fixtures import make_folder
from vpt.cli import app
from vpt.config import Schema, load_config
from vpt.prompts import Prompt
from vpt.protocols.clip_eval import load_clip_eval
from vpt.registry import PROMPTS
from vpt.structures import Dimensions

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_training_loop__is_short__trains__and_its_file_loads(tmp_path, monkeypatch):
    loop, load, clip, _ = blocks("python")
    assert len(loop.strip().splitlines()) < 15
    make_folder(tmp_path / "photos", splits=("train",), classes=3, images=4)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(loop + load, names)
    assert names["model"].backbone is names["again"].backbone
    assert names["model"].class_names == ["class_0", "class_1", "class_2"]
    torch.testing.assert_close(names["probabilities"].sum(), torch.tensor(1.0))
    exec(clip, names)
    assert names["probabilities"].shape == (1, 2)
    assert sum(p.numel() for p in names["prompted"].trainable_parameters()) == 6 * 10 * 192


def test_the_detectors_loop__trains__and_its_file_loads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_coco(tmp_path / "data/mine", images=4)
    (tmp_path / "datasets").mkdir()
    text = (ROOT / "datasets/custom_coco.yaml").read_text()
    (tmp_path / "datasets/mine.yaml").write_text(text)
    names: dict = {}
    exec(blocks("python")[-1].replace("range(5)", "range(1)"), names)
    assert len(names["found"]) == len(names["batch"].images)
    again = vpt.load_detector("boxes.safetensors")
    assert again.class_names == names["model"].class_names


def test_every_vpt_command__exists():
    known = set(typer.main.get_command(app).commands)
    used = set(re.findall(r"^(?:\s*)vpt ([\w-]+)", "\n".join(blocks("bash")), flags=re.MULTILINE))
    assert len(used) >= 5
    assert used <= known


def test_every_config_named__exists_and_validates():
    import vpt.api  # noqa: F401 - registers prompts and heads

    named = set(re.findall(r"configs/\w+\.yaml", README))
    evaluations = {name for name in named if "clip_" in name} - {"configs/clip_vpt.yaml"}
    assert len(named) >= 7
    names = ("quickstart", "methods_digits", "detection_quickstart")
    comparisons = {f"configs/{name}.yaml" for name in names}
    for name in named - evaluations - comparisons:
        load_config(ROOT / name)
    for name in evaluations:
        load_clip_eval(ROOT / name)


def test_the_prompts_table__is_valid_config():
    rows = re.findall(r"^\| `prompt: (.+?)` \|", README, flags=re.MULTILINE)
    assert len(rows) == 12
    for value in rows:
        load_config(ROOT / "configs/finetune.yaml", [f"prompt={value}"])


def test_the_public_names__are_all_there():
    assert all(getattr(vpt, name) is not None for name in vpt.__all__)
    assert set(dir(vpt)) == set(vpt.__all__)


def test_the_prompt_method_of_contributing__works(monkeypatch, tmp_path):
    text = (ROOT / "CONTRIBUTING.md").read_text()
    options, method = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    monkeypatch.setattr(PROMPTS, "_entries", {name: PROMPTS[name] for name in PROMPTS.names()})
    start = "from __future__ import annotations\n"
    exec(start + options, {"PROMPTS": PROMPTS, "Schema": Schema, "Field": Field})
    module = types.ModuleType("vpt.prompts.scaled")
    given = {"Prompt": Prompt, "Dimensions": Dimensions, "torch": torch, "nn": torch.nn}
    vars(module).update(given, Tensor=torch.Tensor)
    exec(start + method, vars(module))
    monkeypatch.setitem(sys.modules, "vpt.prompts.scaled", module)
    model = vpt.create_model("bundled/glyph_vit", "vpt_scaled", num_tokens=3, num_classes=2).eval()
    assert type(model.prompt).__name__ == "ScaledPrompt"
    vpt.save_prompt(model, tmp_path / "scaled.safetensors")
    images = torch.randn(2, 3, *model.preprocess.size)
    again = vpt.load_prompt(tmp_path / "scaled.safetensors", backbone=model.backbone)
    assert torch.equal(model(images), again(images))


def test_ci_runs_what_the_readme_says():
    assert "make test" in README
    assert "make test" in (ROOT / ".ci/run").read_text()


def test_the_tests__cannot_reach_the_network():
    with pytest.raises(UserWarning, match=r"192\.0\.2\.1"):  # pytest-socket's, here an error
        socket.create_connection(("192.0.2.1", 80), timeout=1)
