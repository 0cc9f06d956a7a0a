"""Commands as a newcomer types them: what was meant is said, before torch is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import vpt
from tests.fixtures import make_image
from tests.test_cli import fails_in_one_line, run
from vpt.cli.mistakes import refusal

CONFIG = """
run_dir: {place}/run
backbone: bundled/glyph_vit
data: {{dataset: {place}/photos, batch_size: 6}}
optim: {{lr: 1e-2}}
train: {{epochs: 1, device: cpu}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A config, a folder of images, and what a run leaves; no model is ever made of them."""
    place = tmp_path_factory.mktemp("line")
    (place / "c.yaml").write_text(CONFIG.format(place=place))
    for label in "ab":
        (place / "photos" / "train" / label).mkdir(parents=True)
        make_image().save(place / "photos" / "train" / label / "1.png")
    (place / "done" / "checkpoints").mkdir(parents=True)
    (place / "done" / "config.yaml").write_text("")
    for name in ("prompt.safetensors", "checkpoints/step_00000003.safetensors"):
        (place / "done" / name).write_bytes(b"")
    (place / "empty").mkdir()
    return place


@pytest.fixture(autouse=True)
def _there(place, monkeypatch):
    monkeypatch.chdir(place)


def test_a_bare_vpt__prints_its_help_as_help(capsys):
    assert run() == (0, "")
    shown = capsys.readouterr().out
    assert shown.startswith("Usage: vpt [OPTIONS] COMMAND [ARGS]...\n\n")
    assert "  predict " in shown
    assert run("data") == run("-h") == run("train", "-h") == (0, "")


def test_the_version__is_printed(capsys):
    assert run("--version") == (0, "")
    assert capsys.readouterr().out == f"vpt {vpt.__version__}\n"


@pytest.mark.parametrize(
    ("words", "saying"),
    [
        ("train data.dataset=photos", "write: vpt train CONFIG.yaml data.dataset=photos"),
        ("train done/prompt.safetensors", "train.init_from=done/prompt.safetensors; to measure it"),
        ("train done/checkpoints/step_00000003.safetensors", "done/config.yaml --resume"),
        ("train done", "vpt train done/config.yaml --resume"),
        ("train photos", "vpt train CONFIG.yaml data.dataset=photos"),
        ("train d.yaml", "d.yaml: no such file, did you mean c.yaml?"),
        ("train no/c.yaml", "no such file (nor the folder no)"),
        ("probe done", "vpt probe done/config.yaml --resume"),
        ("sweep done/prompt.safetensors", "not a config"),
        ("report nowhere", "nowhere: no such file or folder; name a sweep's run_dir or its config"),
        ("benchmark-data photos", "photos is a folder, not a config"),
        ("evaluate done/checkpoints/step_00000003.safetensors --data photos", "use done/prompt.s"),
        ("evaluate c.yaml --data photos", "c.yaml is YAML, not a prompt file"),
        ("evaluate empty --data photos", "empty is a folder without prompt.safetensors"),
        ("evaluate done/prompt.safetensors --data photoz", "did you mean photos?"),
        ("predict done/promt.safetensors photos", "did you mean done/prompt.safetensors?"),
        ("predict photos/train/a/1.png done/prompt.safetensors", "the prompt file comes first"),
        ("predict done/prompt.safetensors photo", "'photo': no such file or folder, did you"),
        ("predict done/prompt.safetensors photos nope.jpg", "'nope.jpg': no such file or folder"),
        ("predict done/prompt.safetensors photos/*.gif", "no image found by 'photos/*.gif'"),
        ("predict done/prompt.safetensors empty", "no image found by 'empty'"),
        ("predict done/prompt.safetensors photos --weights w.safetensors", "--weights w.safeten"),
        ("show c.yaml", "c.yaml is YAML, not a prompt file"),
        ("c.yaml train.epochs=2", "Write: vpt train c.yaml train.epochs=2"),
        ("done/prompt.safetensors a.jpg", "Write: vpt predict done/prompt.safetensors a.jpg"),
        ("photos", "vpt data check photos, or vpt train CONFIG.yaml data.dataset=photos"),
        ("nonsense", "vpt --help lists the commands"),
        ("trian c.yaml", "Did you mean 'train'?"),
        ("train", "usage: vpt train [OPTIONS] CONFIG"),
        ("train c.yaml c.yaml", "'c.yaml' is a second config"),
        ("train c.yaml photos", "for the data set: data.dataset=photos"),
        ("train --config c.yaml", "the config is named without an option: vpt train c.yaml"),
        ("predict done --data photos", "vpt predict PROMPT.safetensors photos"),
        ("predict done photos --format json", "Did you mean 'jsonl'?"),
        ("predict done photos --device gpu", "'gpu' is no device: it must be auto, cpu"),
        ("evaluate done photos", "usage: vpt evaluate [OPTIONS] FILE --data DATA"),
        ("list backbone", "Did you mean 'backbones'?"),
        ("data photos", "Write: vpt data check photos"),
        ("predict done/prompt.safetensors", "usage: vpt predict [OPTIONS]"),
    ],
)
def test_another_thing_than_was_wanted__says_what_to_write(words, saying):
    fails_in_one_line(*words.split(), saying=saying)


@pytest.mark.parametrize(
    ("words", "saying"),
    [
        ("c.yaml --epochs 3", "write train.epochs=3"),
        ("--epochs=3 c.yaml", "write train.epochs=3"),
        ("c.yaml --train.epochs=3", "write train.epochs=3"),
        ("c.yaml --epoch 3", "write train.epochs=3"),
        ("c.yaml --batch-size 5 --resume", "write data.batch_size=5"),
        ("c.yaml -lr 0.1", "write optim.lr=0.1"),
        ("c.yaml --lr", "write optim.lr=VALUE"),
        ("c.yaml --num-tokens 3", "write prompt.num_tokens=3"),
        ("c.yaml --name x", "write backbone.name=x or prompt.name=x or head.name=x"),
        ("c.yaml --gpu 1", "write train.device=cuda:1"),
        ("c.yaml --data my photos", "write data.dataset=my"),
        ("c.yaml --foo 3", "vpt train --help lists all"),
        ("c.yaml --overwrit", "--overwrite"),
        ("c.yaml train.epochs = 3", "write train.epochs=3"),
        ("c.yaml train.epochs= 3", "write train.epochs=3"),
        ("c.yaml train.epochs =3", "write train.epochs=3"),
        ("c.yaml optim.lr=1e-3,train.epochs=3", "write optim.lr=1e-3 train.epochs=3"),
        ("c.yaml epochs=3", "did you mean 'train.epochs'?"),
        ("c.yaml num_classes=3", "num_classes: unknown key: the classes are those of the data set"),
    ],
)
def test_a_key_of_the_config_as_an_option__says_how_it_is_set(words, saying):
    fails_in_one_line("train", *words.split(), saying=saying)


def test_blanks_inside_one_word__are_explained_too():
    fails_in_one_line("train", "c.yaml", "train.epochs = 3", saying="write train.epochs=3")


def test_an_option_of_another_command__is_no_key():
    fails_in_one_line("predict", "a", "b", "--epochs", "3", saying="; vpt predict --help lists all")


def test_a_run_directory__stands_for_its_prompt_file(tmp_path):
    code, stderr = run("predict", "done", "photos")
    assert code == 2
    first, second = stderr.splitlines()
    assert first == "done is a folder; its run's prompt file is used: done/prompt.safetensors"
    assert second.startswith("vpt: done/prompt.safetensors")


@pytest.mark.parametrize(
    ("overrides", "saying"),
    [
        ("data.dataset=fotos", "no data set at 'fotos'"),
        ("data.dataset=photos/train/a/1.png", "is an image; name the folder of all images"),
        ("data.root=fotos", "data.root fotos: no such file or folder"),
        ("backbone.weights=w.safetensors", "backbone.weights w.safetensors: no such file"),
        ("backbone.weights=/dev/zero", "/dev/zero: is a device or a pipe; name a .safetensors"),
        ("train.init_from=p.safetensors", "train.init_from p.safetensors: no such file"),
        ("run_dir=done", "done is not empty"),
        ("run_dir=c.yaml", "cannot use c.yaml as a run directory: it is a file"),
        ("train.epochs=0", "train.epochs: value 0 is not allowed"),
    ],
)
def test_a_config_that_names_what_is_not_there__is_refused(overrides, saying):
    fails_in_one_line("train", "c.yaml", overrides, saying=saying)


def test_mistakes__are_answered_before_torch_is_imported(place):
    commands = [
        ["train", "c.yaml", "train.epoch=3"],
        ["train", "c.yaml", "--epochs", "3"],
        ["train", "c.yaml", "data.dataset=fotos"],
        ["train", "c.yaml", "run_dir=done"],
        ["predict", "done/prompt.safetensors", "nope"],
        ["predict", "nope.safetensors", "photos"],
        ["evaluate", "done/prompt.safetensors", "--data", "nope"],
    ]
    code = (
        "import sys\nfrom vpt.cli import main\n"
        f"for words in {commands!r}:\n"
        "    try:\n        main(words)\n    except SystemExit as stop:\n"
        "        print(stop.code, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=place)
    assert done.stdout.splitlines() == ["2 False"] * len(commands), done.stderr
    assert done.stderr.count("\n") == len(commands)


def test_an_error_without_a_command__is_its_own_message():
    class PlainError(Exception):
        def format_message(self):
            return "two\n  lines"

    assert refusal(PlainError(), []) == "two lines"
