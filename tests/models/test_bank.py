"""A bank of tasks: every image gets what its task alone would give it."""

from __future__ import annotations

import copy
import pickle  # noqa: TID251 - the bank must survive it, as loaders and launchers pickle
import threading

import pytest
import torch

from tests.contracts.kinds import BY_INSERTION, images_for, make
from tests.contracts.test_backbone_contract import kinds
from tests.contracts.test_baked_contract import moved
from tests.contracts.test_detector_contract import build as build_detector
from tests.text.models import tiny_clip
from vpt.api import create_model
from vpt.backbones import create_backbone, stored_in, wrap_backbone
from vpt.errors import ConfigError
from vpt.models import TaskBank
from vpt.prompts import Prompt
from vpt.structures import Inside
from vpt.text import TextTower

DEEP = {"name": "vpt_deep", "num_tokens": 4}
RAGGED = {
    "deep": (DEEP, 5),
    "last": ({"name": "vpt_deep", "num_tokens": 2, "layers": {"last": 1}}, 3),
    "none": ("none", 2),
    "both": ([{"name": "vpt_deep", "num_tokens": 1}, {"name": "kv", "num_tokens": 2}], 7),
}
FULL = {"birds": (DEEP, 3), "dogs": (DEEP, 6), "cars": (DEEP, 4)}


def models_on(backbone, tasks):
    torch.manual_seed(3)
    models = {
        name: create_model(backbone, prompt, num_classes=count)
        for name, (prompt, count) in tasks.items()
    }
    return {name: moved(model, seed) for seed, (name, model) in enumerate(models.items())}


def bank_of(tasks, kind="test_vit", **options):
    backbone = wrap_backbone(make(kind))
    models = models_on(backbone, tasks)
    return TaskBank.from_models(backbone, models, **options), models


def assert_each_is_its_own(bank, models, images, names, *, atol=1e-5):
    """The logits of a mixed batch are those of each model alone, and -inf beyond."""
    logits = bank(images, names)
    assert logits.shape == (len(images), bank.num_classes)
    for row, image, name in zip(logits, images, names, strict=True):
        with torch.no_grad():
            expected = models[name](image[None])[0].float()
        torch.testing.assert_close(row[: len(expected)], expected, atol=atol, rtol=1e-5)
        assert (row[len(expected) :] == float("-inf")).all()


@kinds
def test_every_backbone__in_a_mixed_batch__gives_each_image_its_own_tasks_logits(kind):
    by_insertion = kind in BY_INSERTION
    bank, models = bank_of({"none": ("none", 2)} if by_insertion else RAGGED, kind)
    assert bank.num_tokens[-1] == (0 if by_insertion else 4)
    names = [*models, *models]
    images = images_for(make(kind), len(names))
    scale = max(1.0, bank(images, names).abs().nan_to_num(posinf=0).max())
    assert_each_is_its_own(bank, models, images, names, atol=1e-5 * scale)


def test_tasks_of_equal_length__need_no_mask__and_padding_is_masked_where_it_is():
    bank, models = bank_of(FULL)
    assert not any(bank.masked)
    names = ["dogs", "birds", "cars", "birds"]
    images = images_for(make("test_vit"), 4)
    assert_each_is_its_own(bank, models, images, names)
    short = models_on(bank.backbone, {"short": ({**DEEP, "layers": {"last": 2}}, 2)})
    bank.replace("cars", short["short"])
    depth = bank.backbone.depth
    assert bank.masked == (True,) * (depth - 2) + (False,) * 2
    models["cars"] = short["short"]
    assert_each_is_its_own(bank, models, images, names)
    bank.remove("cars")
    assert not any(bank.masked)


def test_an_image__does_not_depend_on_the_tasks_of_its_neighbours():
    bank, _ = bank_of(RAGGED)
    images = images_for(make("test_vit"), 3)
    mixed = bank(images, ["deep", "both", "none"])
    assert torch.equal(mixed[0], bank(images, ["deep", "last", "last"])[0])
    assert torch.equal(mixed, bank(images, bank.slots(["deep", "both", "none"], 3)))
    assert torch.equal(bank(images, "both"), bank(images, ["both"] * 3))


def test_predict__gives_probabilities_over_the_own_classes__each_alone_if_multi_label():
    backbone = wrap_backbone(make("test_vit"))
    models = models_on(backbone, {"birds": (DEEP, 3)})
    multi = create_model(
        backbone, DEEP, num_classes=2, class_names=["wet", "dark"], multi_label=True
    )
    models["weather"] = moved(multi)
    bank = TaskBank.from_models(backbone, models)
    images = images_for(make("test_vit"), 2)
    found = bank.predict(images, task=["weather", "birds"])
    expected = [models["weather"].predict(images[:1])[0], models["birds"].predict(images[1:])[0]]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert bank.tasks["weather"].class_names == ("wet", "dark")
    assert bank.tasks["weather"].preprocess == multi.preprocess


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_heads_of_texts__are_rows_too(kind):
    native, tokenizer = tiny_clip(kind)
    backbone, text = wrap_backbone(native), TextTower(native, tokenizer)
    heads = {
        "zero_shot": "zero_shot",
        "learned": {"name": "zero_shot", "context": {"num_tokens": 2}, "learn_scale": True},
        "from_text": "linear_from_text",
    }
    names = ["cat", "hot dog", "kite"]
    models = {
        name: moved(create_model(backbone, DEEP, head=head, class_names=names, text=text))
        for name, head in heads.items()
    }
    models |= models_on(backbone, {"linear": (DEEP, 4)})
    with torch.no_grad():
        models["learned"].head.log_scale.add_(0.5)
        models["from_text"].head.bias.add_(torch.tensor([0.1, -0.2, 0.3]))
    bank = TaskBank.from_models(backbone, models)
    images = torch.randn(8, 3, 32, 32)
    assert_each_is_its_own(bank, models, images, [*models] * 2, atol=2e-5)


# ------------------------------------------------------------------------------- coming and going


def test_tasks_come_and_go__in_place__and_the_others_stay_as_they_are():
    bank, models = bank_of(FULL, capacity=4, num_rows=17)
    before = {name: buffer.data_ptr() for name, buffer in bank.named_buffers()}
    other = models_on(bank.backbone, {"new": (DEEP, 4), "again": (DEEP, 5), "more": ("none", 3)})
    images = images_for(make("test_vit"), 4)
    stays = bank(images, ["birds", "dogs", "birds", "dogs"])
    bank.add("new", other["new"])
    bank.remove("cars")
    bank.replace("new", other["again"])
    bank.add("more", other["more"])
    models |= {"new": other["again"], "more": other["more"]}
    assert torch.equal(bank(images, ["birds", "dogs", "birds", "dogs"])[:, :6], stays[:, :6])
    assert_each_is_its_own(bank, models, images, ["new", "more", "dogs", "birds"])
    assert {name: buffer.data_ptr() for name, buffer in bank.named_buffers()} == before
    with pytest.raises(ConfigError, match="has no task 'cars'; it has"):
        bank(images, "cars")


def test_a_grown_bank__has_room__and_holds_what_it_held():
    bank, models = bank_of(FULL)
    large = models_on(bank.backbone, {"large": ({**DEEP, "num_tokens": 6}, 9)})["large"]
    for says, sizes in (
        ("the bank has its 3 tasks", {"capacity": 4}),
        ("6 prompt tokens at layer 0, where the bank has 4", {"num_tokens": 6}),
        ("9 classes, where the bank has 6", {"num_classes": 9}),
        ("9 classes, and 0 of the bank's 13 rows are free", {"num_rows": 22}),
    ):
        with pytest.raises(ConfigError, match=rf"{says}; .*grow\({next(iter(sizes))}"):
            bank.add("large", large)
        bank.grow(**sizes)
    bank.add("large", large)
    models["large"] = large
    images = images_for(make("test_vit"), 4)
    assert_each_is_its_own(bank, models, images, [*models])
    with pytest.raises(ConfigError, match="the bank has 4, and only grows"):
        bank.grow(capacity=3)


def test_a_compiled_bank__is_one_graph__whatever_comes_goes_and_is_mixed():
    bank, models = bank_of(FULL, "clip_tok", capacity=4)
    other = models_on(bank.backbone, {"new": (DEEP, 4)})["new"]
    images = images_for(make("clip_tok"), 4)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(bank, fullgraph=True, backend="eager")

    def check(names):
        expected = bank(images, names)
        found = compiled(images, bank.slots(names, 4))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        return torch._dynamo.utils.counters["stats"]["unique_graphs"]

    assert check(["birds", "dogs", "cars", "birds"]) == 1
    bank.add("new", other)
    assert check(["new", "dogs", "new", "birds"]) == 1
    bank.replace("dogs", models["cars"])
    bank.remove("birds")
    assert check(["new"] * 4) == 1
    short = models_on(bank.backbone, {"short": ({**DEEP, "num_tokens": 1}, 2)})["short"]
    bank.add("short", short)
    assert check(["new", "short", "cars", "short"]) == 2
    bank.remove("new")
    assert check(["cars", "short", "dogs", "dogs"]) == 2


# --------------------------------------------------------------------- handles and other threads


def test_a_handle__of_a_task_that_was_removed__is_refused__whatever_has_its_place():
    bank, models = bank_of(FULL)
    images = images_for(make("test_vit"), 2)
    torch._dynamo.reset()
    compiled = torch.compile(bank, fullgraph=True, backend="eager")
    before = bank.slots(["dogs", "cars"], 2)
    bank.remove("dogs")
    with pytest.raises(ConfigError, match="is of a task that was removed"):
        bank(images, before)
    bank.add("new", models["dogs"])
    assert bank.tasks["new"].slot == 1
    for call in (bank, bank.predict, compiled):
        with pytest.raises(ConfigError, match=r"is of a task that was removed.*call bank.slots"):
            call(images, before)
    assert bank.slots("new", 2).tolist() != before.tolist()
    assert_each_is_its_own(bank, {**models, "new": models["dogs"]}, images, ["new", "cars"])


def test_a_handle__of_a_replaced_task__is_good_while_the_classes_are_the_same():
    bank, _ = bank_of(FULL)
    images = images_for(make("test_vit"), 1)
    handle = bank.slots("dogs", 1)
    other = models_on(bank.backbone, {"other": ("none", 3), "dogs": (DEEP, 6)})
    bank.replace("dogs", other["dogs"])
    assert torch.equal(bank(images, handle), bank(images, "dogs"))
    bank.replace("dogs", other["other"])
    with pytest.raises(ConfigError, match="replaced by one of other classes"):
        bank(images, handle)


def test_handles__survive_growth_and_copies():
    bank, models = bank_of(FULL)
    bank.remove("birds")
    bank.add("new", models["birds"])
    handles = bank.slots(["new", "dogs"], 2)
    bank.grow(capacity=9)
    images = images_for(make("test_vit"), 2)
    other = pickle.loads(pickle.dumps(copy.deepcopy(bank)))
    assert torch.equal(other(images, handles), bank(images, ["new", "dogs"]))
    for handle in (3, -1, 2**40, 7):
        with pytest.raises(ConfigError, match=f"no task of the bank is at {handle}"):
            bank(images[:1], torch.tensor([handle]))


def test_replace__while_another_thread_computes__waits_for_its_pass(monkeypatch):
    bank, _ = bank_of(FULL)
    images = images_for(make("test_vit"), 2)
    old, new = bank(images, "dogs"), models_on(bank.backbone, {"x": (DEEP, 5)})["x"]
    inside, replaced, run_block = threading.Event(), threading.Event(), bank.backbone.run_block

    def slow_block(index, *args, **options):
        if index == 1:
            inside.set()
            assert not replaced.wait(0.1)
        return run_block(index, *args, **options)

    def replace_inside():
        inside.wait()
        bank.replace("dogs", new)
        replaced.set()

    thread = threading.Thread(target=replace_inside)
    thread.start()
    with monkeypatch.context() as patch:
        patch.setattr(bank.backbone, "run_block", slow_block)
        found = bank(images, "dogs")
    thread.join()
    assert torch.equal(found, old)
    assert_each_is_its_own(bank, {"dogs": new}, images, ["dogs", "dogs"])


@pytest.mark.parametrize("compiled", [False, True])
def test_many_replacements__beside_many_passes__are_each_seen_whole_or_not_at_all(compiled):
    bank, models = bank_of(FULL)
    one, two = models["dogs"], models_on(bank.backbone, {"a": (DEEP, 2), "dogs": (DEEP, 6)})["dogs"]
    images, handles = images_for(make("test_vit"), 1), bank.slots("dogs", 1)
    torch._dynamo.reset()
    called = torch.compile(bank, fullgraph=True, backend="eager") if compiled else bank
    whole = []
    for model in (two, one):
        bank.replace("dogs", model)
        whole.append(called(images, handles))
    assert not torch.equal(*whole)
    done = threading.Event()

    def replace_often():
        for _ in range(20):
            bank.replace("dogs", two)
            bank.replace("dogs", one)
        done.set()

    thread = threading.Thread(target=replace_often)
    thread.start()
    found = []
    while not done.is_set():
        found.append(called(images, handles))
    thread.join()
    assert found
    assert all(any(torch.equal(each, other) for other in whole) for each in found)


# ------------------------------------------------------------------------------------- precision


def test_a_bank_in_bfloat16__is_near__and_half_as_large():
    bank, models = bank_of(FULL)
    low = TaskBank.from_models(bank.backbone, models, dtype=torch.bfloat16)
    images = images_for(make("test_vit"), 3)
    assert low.get_buffer("keys_0").dtype == torch.bfloat16
    assert low.nbytes < bank.nbytes
    exact, rough = bank(images, [*models]), low(images, [*models])
    seen = exact.isfinite()
    assert torch.equal(seen, rough.isfinite())
    assert 0 < (exact - rough)[seen].abs().max() < 0.05
    with torch.autocast("cpu", torch.bfloat16):
        mixed = low(images, [*models])
    assert mixed.dtype == torch.float32
    assert (exact - mixed)[seen].abs().max() < 0.2


def test_a_bank__copied_or_pickled__is_independent():
    bank, models = bank_of(RAGGED)
    images = images_for(make("test_vit"), 4)
    expected = bank(images, [*models])
    for twin in (copy.deepcopy(bank), pickle.loads(pickle.dumps(bank))):
        twin.remove("none")
        assert torch.equal(bank(images, [*models]), expected)
        assert torch.equal(twin(images[:2], [*models][:2])[0], bank(images[:2], [*models][:2])[0])
    assert not any(name.startswith(("keys", "weight")) for name in bank.state_dict())


# -------------------------------------------------------------------------------------- refusals


class Heating(Prompt):
    """Divides the scores of block 1."""

    inside_layers = (1,)

    def inside(self, layer, batch_size):
        return Inside(temperature=torch.ones(())) if layer == 1 else None


REFUSED = {
    "vpt_shallow": ("vpt_shallow", r"inserts tokens at layers \[0\].*a bank holds vpt_deep"),
    "gaps": ({**DEEP, "layers": [0, 2]}, r"prompt vpt_deep .* inserts tokens at layers \[0, 2\]"),
    "vpt_gated": ("vpt_gated", "prompt vpt_gated of task 'new' inserts tokens"),
    "pixels": ({"name": "pixels", "width": 4}, "prompt pixels of task 'new' changes the images"),
    "lora": ([DEEP, "lora"], "prompt lora of task 'new' changes projections of block 0"),
    "kv_bias": ("kv_bias", "prompt kv_bias .* changes projections"),
    "adapter": ({"name": "adapter", "width": 4}, "prompt adapter .* changes the MLP of block 0"),
    "unregistered": (Heating(), "prompt Heating of task 'new' changes the temperature of block 1"),
}


@pytest.mark.parametrize("refused", REFUSED)
def test_a_prompt_that_is_more_than_keys_and_values__is_refused__and_nothing_changes(refused):
    prompt, says = REFUSED[refused]
    bank, _ = bank_of(FULL, capacity=4)
    model = moved(create_model(bank.backbone, prompt, num_classes=3))
    assert_refused(bank, model, says)


def assert_refused(bank, model, says):
    before = {name: buffer.clone() for name, buffer in bank.named_buffers()}
    tasks = dict(bank.tasks)
    for act in (bank.add, bank.replace):
        name = "new" if act == bank.add else "dogs"
        with pytest.raises(ConfigError, match=says.replace("'new'", f"'{name}'")) as error:
            act(name, model)
        assert "\n" not in str(error.value)
    assert bank.tasks == tasks
    assert all(torch.equal(buffer, before[name]) for name, buffer in bank.named_buffers())


def test_another_backbone_or_head__is_refused__and_nothing_changes():
    native = make("test_vit")
    bank, _ = bank_of(FULL, capacity=4)

    def on(backbone, **options):
        return create_model(backbone, DEEP, **{"num_classes": 3, **options}).eval()

    assert_refused(bank, on(native, tuning="norm"), r"task 'new' tunes the backbone \(norm\)")
    assert_refused(bank, on(native, head="mlp"), "task 'new' has head mlp; a bank holds heads of")
    assert_refused(bank, on(native, num_classes=None), "task 'new' has no head")
    assert_refused(bank, on(native).train(), r"task 'new' is training; call eval\(\) first")
    assert_refused(bank, build_detector().eval(), "task 'new' is a Detector")
    stored, _ = bank_of(FULL, capacity=4)
    stored.prompted.backbone = stored_in(stored.backbone, torch.bfloat16)
    assert_refused(stored, on(native), "cannot be added to a backbone stored in torch.bfloat16")
    large = wrap_backbone(native)
    large.resize((64, 96))
    assert_refused(bank, on(large), r"image size \(64, 96\), the bank's backbone \(32, 48\)")
    with torch.no_grad():
        native.blocks[0].attn.qkv.bias[0] += 1e-3
    assert_refused(bank, on(native), "task 'new' is of 'timm/test_vit.* the bank of 'timm/test_vit")


def test_a_bank__refuses_what_it_cannot_be():
    backbone = wrap_backbone(make("res_post"))
    with pytest.raises(ConfigError, match="take no context"):
        TaskBank(backbone, capacity=1, num_tokens=2, num_classes=2)
    with pytest.raises(ConfigError, match="capacity 0 of a bank: use 1 or more"):
        TaskBank(backbone, capacity=0, num_tokens=0, num_classes=2)
    bank, models = bank_of(FULL)
    images = images_for(make("test_vit"), 2)
    with pytest.raises(ConfigError, match="1 tasks for 2 images"):
        bank(images, ["dogs"])
    for places in (torch.tensor(0), torch.tensor([0.0, 0.0]), torch.tensor([True, False])):
        with pytest.raises(ConfigError, match=r"give \(B,\) int64, as bank.slots does"):
            bank(images, places)
    with pytest.raises(ConfigError, match="no task of the bank is at 3"):
        bank(images, torch.tensor([0, 3]))
    with pytest.raises(ConfigError, match="the bank has a task 'dogs'; use replace"):
        bank.add("dogs", models["dogs"])
    tuned = create_model(create_backbone("timm/test_vit", pretrained=False), tuning="full")
    with pytest.raises(ConfigError, match="needs a frozen backbone"):
        TaskBank(tuned.backbone, capacity=1, num_tokens=2, num_classes=2)
