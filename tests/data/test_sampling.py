from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpt.data.sampling import EpochBatches, few_shot, holdout
from vpt.data.splits import Sample, Split
from vpt.errors import DataError


def split_of(counts: list[int]) -> Split:
    samples = [Sample(i, label, f"{label}/{i}") for label, n in enumerate(counts) for i in range(n)]
    return Split("train", tuple(samples), tuple(f"c{i}" for i in range(len(counts))))


COUNTS = st.lists(st.integers(1, 30), min_size=1, max_size=6)


@given(counts=COUNTS, fraction=st.floats(0.01, 0.99), seed=st.integers(0, 1000))
def test_holdout__any_split__parts_each_class_by_the_fraction(counts, fraction, seed):
    split = split_of(counts)
    try:
        rest, held = holdout(split, fraction, seed)
    except DataError:
        assert all(fraction * n < 0.5 or n == 1 for n in counts)
        return
    assert Counter(rest.samples) + Counter(held.samples) == Counter(split.samples)
    assert all(n >= 1 for n in rest.class_counts())
    for total, count in zip(counts, held.class_counts(), strict=True):
        assert count == total - 1 or abs(count - fraction * total) <= 0.5


def test_holdout__order_of_images__does_not_matter():
    split = split_of([20, 15])
    backwards = split.with_samples(reversed(split.samples))
    assert set(holdout(split, 0.3, 1)[1].samples) == set(holdout(backwards, 0.3, 1)[1].samples)
    assert holdout(split, 0.3, 1) != holdout(split, 0.3, 2)


def test_holdout__these_keys__are_held_for_ever():
    held = holdout(split_of([8, 8]), 0.25, 0)[1]
    assert [sample.key for sample in held.samples] == ["0/5", "0/7", "1/2", "1/7"]


@given(counts=COUNTS, shots=st.integers(1, 30), seed=st.integers(0, 1000))
def test_few_shot__any_split__has_k_of_each_class_and_grows_by_adding(counts, shots, seed):
    split = split_of(counts)
    if min(counts) < shots:
        with pytest.raises(DataError, match=f"fewer than {shots} shots"):
            few_shot(split, shots, seed)
        return
    chosen = few_shot(split, shots, seed)
    assert chosen.class_counts() == [shots] * len(counts)
    assert set(few_shot(split, 1, seed).samples) <= set(chosen.samples) <= set(split.samples)


def test_few_shot__another_seed__chooses_others():
    split = split_of([30, 30])
    assert few_shot(split, 4, 0) == few_shot(split, 4, 0)
    assert few_shot(split, 4, 0) != few_shot(split, 4, 1)


def test_few_shot__no_shots__is_refused():
    with pytest.raises(DataError, match="at least 1"):
        few_shot(split_of([3]), 0, 0)


LENGTHS = {
    "length": st.integers(1, 60),
    "batch_size": st.integers(1, 20),
    "seed": st.integers(0, 2**40),
    "epoch": st.integers(0, 1000),
}


@given(**LENGTHS, shuffle=st.booleans())
def test_epoch_batches__any_epoch__has_every_index_once(length, batch_size, seed, epoch, shuffle):
    batches = EpochBatches(length, batch_size, seed=seed, epoch=epoch, shuffle=shuffle)
    listed = list(batches)
    indices = [index for batch in listed for _, index in batch]
    assert sorted(indices) == list(range(length))
    assert {e for batch in listed for e, _ in batch} == {epoch}
    assert len(listed) == len(batches)
    assert all(len(batch) == batch_size for batch in listed[:-1])
    assert shuffle or indices == list(range(length))


@given(**LENGTHS, start=st.integers(0, 60), drop_last=st.booleans())
def test_epoch_batches__start_batch__gives_the_tail(
    length, batch_size, seed, epoch, start, drop_last
):
    options = {"seed": seed, "epoch": epoch, "drop_last": drop_last}
    if drop_last and length < batch_size:
        with pytest.raises(DataError, match=f"lower the batch size to {length}"):
            EpochBatches(length, batch_size, **options)
        return
    whole = list(EpochBatches(length, batch_size, **options))
    if start > len(whole):
        with pytest.raises(ValueError, match="start_batch"):
            EpochBatches(length, batch_size, **options, start_batch=start)
        return
    tail = EpochBatches(length, batch_size, **options, start_batch=start)
    assert list(tail) == whole[start:]
    assert len(tail) == len(whole) - start
    assert not drop_last or all(len(batch) == batch_size for batch in whole)


def test_epoch_batches__epochs_and_seeds__have_distinct_orders():
    orders = {
        tuple(index for batch in EpochBatches(40, 8, seed=s, epoch=e) for _, index in batch)
        for s in range(4)
        for e in range(10)
    }
    assert len(orders) == 40
