"""Banks from prompt files: the backbone is created once, and what does not fit is refused."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import torch

from tests.contracts.kinds import make
from tests.contracts.test_baked_contract import moved
from tests.contracts.test_detector_contract import build as build_detector
from vpt import PromptBank, create_model, load_prompt, save_prompt
from vpt.backbones import wrap_backbone
from vpt.errors import ConfigError, PromptFileError

DEEP = {"name": "vpt_deep", "num_tokens": 4}


def save(folder, backbone, tasks, **options):
    """Paths by name of the files of tasks, each a prompt and its classes."""
    torch.manual_seed(0)
    paths = {}
    for seed, (name, (prompt, classes)) in enumerate(tasks.items()):
        given = {"class_names": classes, **options}
        model = moved(create_model(backbone, prompt, **given), seed)
        paths[name] = folder / f"{name}.safetensors"
        save_prompt(model, paths[name])
    return paths


def assert_each_is_its_own(bank, paths, size, **options):
    images = torch.randn(len(paths), 3, *size)
    found = bank.predict(images, task=[*paths])
    for image, own, path in zip(images, found, paths.values(), strict=True):
        expected = load_prompt(path, bank.backbone, **options).predict(image[None])[0]
        torch.testing.assert_close(own, expected, atol=1e-5, rtol=1e-5)


def test_files_of_a_named_backbone__share_one_that_is_created_for_them(tmp_path):
    tasks = {"odd": (DEEP, ["odd", "even"]), "size": ("none", ["small", "large", "none"])}
    paths = save(tmp_path, "bundled/glyph_vit", tasks)
    bank = PromptBank.from_files(None, paths, capacity=5, dtype=torch.float32)
    assert (bank.capacity, bank.num_classes, bank.num_rows) == (5, 3, 13)
    assert bank.tasks["size"].class_names == ("small", "large", "none")
    assert_each_is_its_own(bank, paths, bank.backbone.preprocess.size)
    assert len(PromptBank.from_files("bundled/glyph_vit", paths).tasks) == 2


def test_files__come_and_go_by_their_paths(tmp_path):
    backbone = wrap_backbone(make("test_vit"))
    tasks = {name: (DEEP, [*name]) for name in ("abc", "de", "fghi")}
    paths = save(tmp_path, backbone, tasks)
    bank = PromptBank.from_files(backbone, {"abc": paths["abc"]}, capacity=2, num_classes=4)
    assert bank.backbone is backbone
    bank.grow(num_rows=7)
    bank.add("de", paths["de"])
    bank.replace("abc", str(paths["fghi"]))
    assert_each_is_its_own(bank, {"abc": paths["fghi"], "de": paths["de"]}, (32, 48))
    bank.remove("de")
    bank.add("de", load_prompt(paths["abc"], backbone))
    assert bank.tasks["de"].class_names == ("a", "b", "c")


def test_files_whose_classes_are_texts__need_their_tower_once(tmp_path):
    tasks = {"two": (DEEP, ["one", "two"]), "three": ("none", ["one", "two", "six"])}
    paths = save(tmp_path, "bundled/glyph_clip", tasks, head="zero_shot")
    bank = PromptBank.from_files(None, paths)
    assert_each_is_its_own(bank, paths, bank.backbone.preprocess.size)


def test_a_file_that_no_bank_can_hold__is_refused(tmp_path):
    native = make("test_vit")
    backbone = wrap_backbone(native)
    good = save(tmp_path, backbone, {"good": (DEEP, ["a", "b"])})
    flows = save(tmp_path, backbone, {"flows": ("vpt_shallow", ["a", "b"])})
    tuned = save(tmp_path, backbone, {"tuned": (DEEP, ["a", "b"])}, tuning="bias")
    with torch.no_grad():
        native.blocks[0].attn.qkv.bias[0] += 1e-3
    other = save(tmp_path, native, {"other": (DEEP, ["a", "b"])})
    save_prompt(build_detector(), tmp_path / "boxes.safetensors")
    boxes = {"boxes": tmp_path / "boxes.safetensors"}
    bank = PromptBank.from_files(backbone, good, capacity=2)
    for files, error, says in (
        (flows, ConfigError, "prompt vpt_deep of task 'flows' inserts tokens at layers"),
        (tuned, PromptFileError, r"tunes the backbone \(bias\)"),
        (other, PromptFileError, "belongs to 'timm/test_vit.* with weights"),
        (boxes, PromptFileError, "holds a model for detection; a bank holds classifiers"),
    ):
        with pytest.raises(error, match=says):
            PromptBank.from_files(backbone, good | files)
        (name, path) = next(iter(files.items()))
        with pytest.raises(error, match=says):
            bank.add(name, path)
    assert [*bank.tasks] == ["good"]
    with pytest.raises(ConfigError, match="give at least one"):
        PromptBank.from_files(None, {})


def test_the_documented_example__runs__and_the_formula_is_the_banks(tmp_path, monkeypatch):
    text = (Path(__file__).parents[1] / "docs/many-tasks.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 2
    (tmp_path / "example.py").write_text(blocks[1])
    monkeypatch.chdir(tmp_path)
    made = runpy.run_path("example.py")
    bank, at = made["bank"], made["bank"].backbone.dimensions
    assert [len(share) for share in made["shares"]] == [3, 2, 3]
    keys_and_values = 100 * at.depth * 2 * 10 * at.embed_dim * 4
    class_rows = (bank.num_rows + 1) * (at.feature_dim + 1) * 4
    tables = 100 * (3 + at.depth) * 8 + 100 * 5
    assert bank.nbytes == keys_and_values + class_rows + tables
