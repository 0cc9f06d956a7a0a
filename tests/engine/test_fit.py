"""The loop: what a step computes, when it stops, and that it goes on with the same bits."""

from __future__ import annotations

import signal
import threading
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

import vpt.engine.fit
from vpt.api import create_model
from vpt.engine.checkpoint import CheckpointStore
from vpt.engine.fit import FitData, FitSettings, Outputs, fit, steps_per_epoch, total_steps
from vpt.engine.interrupt import Interrupted, stop_request
from vpt.engine.optim import OptimSettings
from vpt.errors import RunError
from vpt.evaluation import ClassificationEvaluator
from vpt.structures import Batch

CPU = torch.device("cpu")
PARTS = ("prompt", "head", "backbone")


def make_model(**options):
    torch.manual_seed(0)
    return create_model(
        "timm/test_vit",
        {"name": "vpt_deep", "num_tokens": 2} | options,
        num_classes=3,
        pretrained=False,
        image_size=32,
    )


def make_batches(*sizes):
    generator = torch.Generator().manual_seed(1)
    batches, start = [], 0
    for size in sizes:
        images = torch.randn(size, 3, 32, 32, generator=generator)
        labels = torch.randint(3, (size,), generator=generator)
        batches.append(Batch(images, labels, torch.arange(start, start + size)))
        start += size
    return batches


def make_data(batches):
    return FitData(
        train=lambda epoch, skip: batches[skip:],
        batches_per_epoch=len(batches),
        val=lambda: batches,
        evaluator=ClassificationEvaluator(3),
    )


def make_settings(*, name="sgd", lr=1.0, decay=0.0, momentum=0.0, warmup=0, **options):
    optim = OptimSettings(
        name=name,
        lr=dict.fromkeys(PARTS, lr),
        weight_decay=dict.fromkeys(PARTS, decay),
        momentum=momentum,
        warmup_steps=warmup,
    )
    return FitSettings(**{"optim": optim, "seed": 0, "epochs": 1} | options)


def trained(model):
    return {name: tensor.detach().clone() for name, tensor in model.trained_tensors()}


def merged(batches):
    return Batch(
        *(torch.cat([getattr(b, f) for b in batches]) for f in ("images", "labels", "indices"))
    )


@pytest.mark.parametrize("weights", [None, (0.2, 1.0, 3.0)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_accumulated_batches__give_the_gradient_of_one_big_batch(weights, smoothing):
    batches = make_batches(5, 5, 2)
    moved = []
    for count, given in ((3, batches), (1, [merged(batches)])):
        model = make_model()
        before = trained(model)
        settings = make_settings(
            accumulation=count, class_weights=weights, label_smoothing=smoothing
        )
        state = fit(model, make_data(given), settings, device=CPU)
        assert state.step == 1
        moved.append({name: before[name] - tensor for name, tensor in trained(model).items()})
    for name, gradient in moved[1].items():
        assert gradient.abs().max() > 1e-4
        assert (moved[0][name] - gradient).abs().max() <= 1e-6


class _GraphMemory(torch.autograd.Function):
    """Gives gradients as a CUDA graph does: in memory that its next replay overwrites."""

    memory: dict[int, torch.Tensor] = {}  # noqa: RUF012

    @staticmethod
    def forward(ctx, tensor):
        ctx.place = tensor.data_ptr()
        return tensor.clone()

    @staticmethod
    def backward(ctx, gradient):
        memory = _GraphMemory.memory.setdefault(ctx.place, torch.empty_like(gradient))
        return memory.copy_(gradient).detach()


@pytest.mark.parametrize(("mode", "moved"), [("reduce-overhead", 2.0), ("default", 10 / 3)])
def test_accumulated_batches__are_summed__though_a_graph_overwrites_its_gradients(
    mode, moved, monkeypatch
):
    """By 'default', which has no CUDA graphs, the last batch counts twice: the stand-in is one."""
    model = make_model()
    slopes = iter([0.0, 1.0, 5.0])

    def loss(batch, **options):
        value = _GraphMemory.apply(model.head.bias).sum() * next(slopes)
        return {"loss": value, "loss_class": value}

    monkeypatch.setattr(model, "loss", loss)
    monkeypatch.setattr(vpt.engine.fit, "accelerated", lambda *args, **options: nullcontext())
    _GraphMemory.memory.clear()
    settings = make_settings(accumulation=3, compile_mode=mode)
    before = model.head.bias.detach().clone()
    fit(model, make_data(make_batches(4, 4, 4)), settings, device=CPU)
    torch.testing.assert_close(before - model.head.bias.detach(), torch.full((3,), moved))


def test_a_step__moves_by_rate_times_the_gradient_of_the_stated_loss():
    (batch,) = make_batches(6)
    model = make_model()
    logits = model(batch.images)
    picked = logits.log_softmax(-1).gather(1, batch.labels[:, None]).squeeze(1)
    weights = torch.tensor((0.2, 1.0, 3.0))[batch.labels]
    loss = -(weights * picked).sum() / weights.sum()
    gradients = torch.autograd.grad(loss, model.trainable_parameters())
    expected = [p - 0.5 * g for p, g in zip(model.trainable_parameters(), gradients, strict=True)]
    fit(model, make_data([batch]), make_settings(lr=0.5, class_weights=(0.2, 1.0, 3.0)), device=CPU)
    for tensor, value in zip(model.trainable_parameters(), expected, strict=True):
        assert torch.allclose(tensor, value, atol=1e-7)


def test_clipping__limits_the_norm_of_the_whole_gradient():
    (batch,) = make_batches(6)
    model = make_model()
    before = trained(model)
    fit(model, make_data([batch]), make_settings(clip_grad_norm=1e-3), device=CPU)
    moved = torch.cat([(t - before[n]).flatten() for n, t in trained(model).items()])
    assert moved.norm() == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize(
    ("batches", "accumulation", "epochs", "most", "per_epoch", "total"),
    [(4, 1, 3, None, 4, 12), (4, 3, 3, None, 2, 6), (4, 2, 3, 5, 2, 5), (1, 8, 2, 9, 1, 2)],
)
def test_steps__are_counted_with_an_incomplete_last_group(
    batches, accumulation, epochs, most, per_epoch, total
):
    settings = make_settings(epochs=epochs, accumulation=accumulation, max_steps=most, lr=0.01)
    assert steps_per_epoch(batches, accumulation) == per_epoch
    assert total_steps(settings, batches) == total
    state = fit(make_model(), make_data(make_batches(*[2] * batches)), settings, device=CPU)
    assert (state.step, state.finished) == (total, "done")
    assert state.evaluated == -(-total // per_epoch)


class _StoppedError(Exception):
    pass


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_going_on_from_a_checkpoint__gives_the_same_bits__and_the_same_scale(
    precision, tmp_path, monkeypatch
):
    batches = make_batches(3, 3, 1)
    settings = make_settings(
        name="adamw", lr=0.01, decay=0.1, warmup=2, epochs=3, accumulation=2,
        precision=precision, label_smoothing=0.1, checkpoint_seconds=0.0,
    )  # fmt: skip
    options = {"dropout": 0.2}
    straight = make_model(**options)
    expected = fit(straight, make_data(batches), settings, device=CPU)
    rates = vpt.engine.fit.set_learning_rates

    def stopping(optimizer, optim, step, total):
        if step == 3:
            raise _StoppedError
        return rates(optimizer, optim, step, total)

    store = CheckpointStore(tmp_path)
    outputs, model = Outputs(checkpoints=store), make_model(**options)
    with monkeypatch.context() as patch:
        patch.setattr(vpt.engine.fit, "set_learning_rates", stopping)
        with pytest.raises(_StoppedError):
            fit(model, make_data(batches), settings, device=CPU, outputs=outputs)
    checkpoint = store.load_newest(lambda line: None)
    assert checkpoint.step == 3
    assert bool(checkpoint.state["scaler"]) == (precision == "fp16")
    model = make_model(**options)
    torch.manual_seed(12345)
    state = fit(model, make_data(batches), settings, device=CPU, resume=checkpoint)
    assert all(torch.equal(t, trained(straight)[n]) for n, t in trained(model).items())
    assert (state.best, state.best_epoch, state.step) == (expected.best, expected.best_epoch, 6)


def test_dropout__differs_between_steps_and_between_accumulated_batches(monkeypatch):
    (batch,) = make_batches(2)
    model = make_model(dropout=0.5)
    masks, sample = [], model.prompt.sample

    def noting(layer, batch_size):
        rows = sample(layer, batch_size)
        if model.prompt.training:
            masks.append(rows == 0)
        return rows

    monkeypatch.setattr(model.prompt, "sample", noting)
    settings = make_settings(lr=1e-9, accumulation=2)
    fit(model, make_data([batch] * 4), settings, device=CPU)
    assert len(masks) == 4 * 6
    assert len({mask.numpy().tobytes() for mask in masks}) == 4 * 6


def test_early_stopping_on_the_loss__stops_when_it_no_longer_falls():
    settings = make_settings(lr=1e-12, epochs=9, select="loss", early_stopping=2)
    state = fit(make_model(), make_data(make_batches(4)), settings, device=CPU)
    assert state.finished == "no better loss in 2 epochs"
    assert state.evaluated - state.best_epoch == 3


@pytest.mark.parametrize(
    ("epochs", "max_steps", "validated"), [(5, None, [2, 4, 5]), (4, None, [2, 4]), (9, 7, [2, 4])]
)
def test_validation_every_second_epoch__also_sees_the_end(epochs, max_steps, validated):
    lines: list[str] = []
    settings = make_settings(lr=0.01, epochs=epochs, max_steps=max_steps, evaluate_every=2)
    data = make_data(make_batches(4, 4))
    state = fit(make_model(), data, settings, device=CPU, outputs=Outputs(log=lines.append))
    assert [int(line.split("/")[0].removeprefix("epoch ")) for line in lines] == validated
    assert state.evaluated == validated[-1]
    assert state.best_epoch + 1 in validated


def test_early_stopping__counts_epochs__however_seldom_it_validates():
    settings = make_settings(lr=1e-12, epochs=9, select="loss", early_stopping=4, evaluate_every=2)
    state = fit(make_model(), make_data(make_batches(4)), settings, device=CPU)
    assert state.finished == "no better loss in 4 epochs"


class Scripted(ClassificationEvaluator):
    """Metrics that are written down, one validation after the other."""

    def __init__(self, metrics: list[dict[str, float]]):
        super().__init__(3)
        self.metrics = metrics

    def compute(self) -> dict[str, float]:
        return self.metrics.pop(0)


TIES = [(0.5, 0.9), (0.767, 0.8), (0.767, 0.7), (0.767, 0.75), (0.767, 0.65), (0.7, 0.1)]


def scripted(count: int) -> FitData:
    metrics = [{"top1": top1, "loss": loss} for top1, loss in TIES[-count:]]
    return replace(make_data(make_batches(2)), evaluator=Scripted(metrics))


def test_a_tie_in_accuracy__goes_to_the_lower_loss__also_after_a_resume(tmp_path):
    best: list[dict[str, float]] = []
    settings = make_settings(lr=1e-6, epochs=6)
    outputs = Outputs(on_best=lambda metrics: best.append(metrics))
    whole = fit(make_model(), scripted(6), settings, device=CPU, outputs=outputs)
    assert (whole.best_epoch, whole.best) == (4, {"top1": 0.767, "loss": 0.65})
    assert [metrics["loss"] for metrics in best] == [0.9, 0.8, 0.7, 0.65]
    store = CheckpointStore(tmp_path)

    def stop_after_three(epoch: int, metrics: dict[str, float]) -> None:
        if epoch == 2:
            raise RuntimeError("killed")

    killed = Outputs(checkpoints=store, on_validation=stop_after_three)
    with pytest.raises(RuntimeError, match="killed"):
        fit(make_model(), scripted(6), settings, device=CPU, outputs=killed)
    checkpoint = store.load_newest(lambda line: None)
    again = fit(make_model(), scripted(3), settings, device=CPU, resume=checkpoint)
    assert (again.best_epoch, again.best, again.stale) == (4, whole.best, whole.stale)


def test_early_stopping__takes_a_lower_loss_at_equal_accuracy_for_progress():
    settings = make_settings(lr=1e-6, epochs=6, early_stopping=1)
    state = fit(make_model(), scripted(6), settings, device=CPU)
    assert state.evaluated == 4  # the fourth was neither more accurate nor surer
    assert state.finished == "no better top1 in 1 epochs"


def test_the_best_epoch__is_reported_once_each__with_the_model_that_it_measured():
    seen, model, batches = [], make_model(), make_batches(8)

    def on_best(metrics):
        with torch.no_grad():
            logits = model(batches[0].images)
        loss = torch.nn.functional.cross_entropy(logits, batches[0].labels)
        seen.append((metrics["loss"], float(loss)))

    settings = make_settings(lr=0.05, epochs=4, select="loss")
    state = fit(model, make_data(batches), settings, device=CPU, outputs=Outputs(on_best=on_best))
    assert len(seen) >= 2
    assert [told for told, _ in seen] == sorted((told for told, _ in seen), reverse=True)
    assert all(told == pytest.approx(measured, rel=1e-5) for told, measured in seen)
    assert state.best["loss"] == seen[-1][0]


def test_a_poisoned_image__names_step_and_rate__and_changes_nothing():
    batches = make_batches(3, 3)
    batches[1].images[0, 0, 0, 0] = float("nan")
    model, reference = make_model(), make_model()
    with pytest.raises(RunError, match=r"the loss is not finite at step 1 \(lr 0\.25\)"):
        fit(model, make_data(batches), make_settings(lr=0.5, epochs=1), device=CPU)
    only_first = make_settings(lr=0.5, epochs=2, max_steps=2)
    with pytest.raises(RunError):
        fit(reference, make_data([batches[0], batches[1]]), only_first, device=CPU)
    assert all(torch.equal(t, trained(reference)[n]) for n, t in trained(model).items())
    assert all(tensor.isfinite().all() for tensor in trained(model).values())


def test_a_checkpoint__of_another_backbone__is_refused(tmp_path):
    store = CheckpointStore(tmp_path)
    outputs = Outputs(checkpoints=store)
    data, settings = make_data(make_batches(3)), make_settings(lr=0.01, epochs=2)
    fit(make_model(), data, settings, device=CPU, outputs=outputs)
    torch.manual_seed(9)
    other = create_model(
        "timm/test_vit", "vpt_deep", num_tokens=2, num_classes=3, pretrained=False, image_size=32
    )
    checkpoint = store.load_newest(lambda line: None)
    with pytest.raises(RunError, match="trained on a backbone with weights"):
        fit(other, data, settings, device=CPU, resume=checkpoint)


# ------------------------------------------------------------------------------------- signals


def raise_in_loss(model, *numbers):
    loss = model.loss

    def signalling(batch, **options):
        for number in numbers:
            signal.raise_signal(number)
        return loss(batch, **options)

    model.loss = signalling


def test_a_signal__finishes_the_step__and_gives_the_handlers_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    model = make_model()
    raise_in_loss(model, signal.SIGTERM)
    with pytest.raises(Interrupted, match=r"stopped by SIGTERM at step 1$"):
        fit(model, make_data(make_batches(2, 2)), make_settings(lr=0.01), device=CPU)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_second_sigint__interrupts_at_once():
    model = make_model()
    raise_in_loss(model, signal.SIGINT, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(model, make_data(make_batches(2)), make_settings(lr=0.01), device=CPU)


def test_a_signal_in_the_last_validation__still_stops(tmp_path):
    store = CheckpointStore(tmp_path)
    model = make_model()
    data = make_data(make_batches(2))
    compute = data.evaluator.compute

    def signalling():
        signal.raise_signal(signal.SIGTERM)
        return compute()

    data.evaluator.compute = signalling
    outputs = Outputs(checkpoints=store)
    with pytest.raises(Interrupted, match="at step 1; go on with --resume"):
        fit(model, data, make_settings(lr=0.01), device=CPU, outputs=outputs)
    assert store.load_newest(lambda line: None).state["fit"]["finished"] == "done"


def test_stop_requests__within_each_other__are_one():
    with stop_request() as outer:
        with stop_request() as inner:
            signal.raise_signal(signal.SIGTERM)
        assert inner is outer
        assert outer.signal_name == "SIGTERM"
    with stop_request() as later:
        assert not later


def test_outside_the_main_thread__training_runs_without_signals():
    states = []
    settings = make_settings(lr=0.01)
    thread = threading.Thread(
        target=lambda: states.append(
            fit(make_model(), make_data(make_batches(2)), settings, device=CPU)
        )
    )
    thread.start()
    thread.join()
    assert states[0].finished == "done"


def test_without_a_terminal__a_plain_line_tells_how_far_it_is(monkeypatch):
    from rich.console import Console

    from vpt.engine.progress import TrainingProgress, format_seconds

    lines: list[str] = []
    console = Console(force_terminal=False, quiet=True)
    progress = TrainingProgress(10, 4, console=console, log=lines.append, line_seconds=0.0)
    with progress:
        progress.show(6, epoch=0, loss=1.5, images_per_second=20.0, data_wait=0.25)
    assert lines[0].startswith("step 6/10 epoch 1 loss 1.5000 20 images/s, 25% data wait, ETA ")
    assert [format_seconds(s) for s in (42, 200, 7500)] == ["42s", "3m20s", "2h05m"]
