import hashlib
import json
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.coop_layouts import make_split_zhou
from vpt.data.descriptor import Descriptor
from vpt.data.reading import read_splits
from vpt.data.sampling import EpochBatches, coop_few_shot, few_shot, holdout, restrict_classes
from vpt.data.splits import Sample, Split, Splits
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


@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 3),
)
def test_epoch_batches__balanced__draw_classes_equally__and_images_of_a_class_in_turn(
    counts, seed, epoch
):
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    batches = EpochBatches(len(labels), 4, seed=seed, epoch=epoch, balance=labels)
    drawn = [index for batch in batches for _, index in batch]
    assert len(drawn) == len(labels)
    of_classes = Counter(labels[index] for index in drawn)
    assert max(of_classes.values()) - min(of_classes[c] for c in range(len(counts))) <= 1
    times = Counter(drawn)
    for label, count in enumerate(counts):
        own = [times[index] for index in range(len(labels)) if labels[index] == label]
        assert max(own) - min(own) <= 1
        assert sum(own) == of_classes[label]
        assert len(own) == count
    again = EpochBatches(len(labels), 4, seed=seed, epoch=epoch, balance=labels, start_batch=1)
    assert list(again) == list(batches)[1:]


def test_epoch_batches__epochs_and_seeds__have_distinct_orders():
    orders = {
        tuple(index for batch in EpochBatches(40, 8, seed=s, epoch=e) for _, index in batch)
        for s in range(4)
        for e in range(10)
    }
    assert len(orders) == 40


# CoOp's choice


def drawn_with_the_global_stream(rows: list[list], count: int) -> list[str]:
    """What CoOp's rule draws from the rows of a list, written down independently."""
    order = list(dict.fromkeys(label for _, label, _ in rows))
    chosen = []
    for label in order:
        paths = [path for path, other, _ in rows if other == label]
        chosen.extend(random.sample(paths, count) if len(paths) >= count else paths)
    return chosen


@pytest.fixture(scope="module")
def unsorted_list(tmp_path_factory):
    """A list whose classes appear out of order, with 1 to 20 images each in train."""
    root = tmp_path_factory.mktemp("flowers")
    make_split_zhou(root, file="s.json", images="", names=["x"])
    content = {
        split: [
            [f"{split}/{label}/{index}.jpg", label, f"flower_{label}"]
            for label in range(7)
            for index in range(most - label * step)
        ]
        for split, most, step in (("train", 20, 3), ("val", 8, 1), ("test", 2, 0))
    }
    for rows in content.values():
        random.Random(5).shuffle(rows)
        for path, _, _ in rows:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).touch()
    (root / "s.json").write_text(json.dumps(content))
    splits = read_splits(Descriptor(name="f", format="split_zhou", file="s.json"), root)
    assert splits.train.labels[0] != 0
    return content, splits


@pytest.mark.parametrize("shots", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_coop_few_shot__unsorted_list__draws_as_the_global_stream_would(unsorted_list, seed, shots):
    content, splits = unsorted_list
    random.seed(seed)
    expected = [
        drawn_with_the_global_stream(content["train"], shots),
        drawn_with_the_global_stream(content["val"], min(shots, 4)),
    ]
    state = random.getstate()
    train, val = coop_few_shot(splits.train, splits.val, shots, seed)
    assert [[sample.key for sample in split.samples] for split in (train, val)] == expected
    assert random.getstate() == state
    assert coop_few_shot(splits.train, None, shots, seed) == (train, None)


def test_coop_few_shot__these_images__are_drawn_for_ever():
    train, val = coop_few_shot(split_of([30, 30]), split_of([6, 6]), 5, seed=1)
    assert [sample.key for sample in train.samples] == [
        "0/4",
        "0/18",
        "0/27",
        "0/25",
        "0/24",
        "1/2",
        "1/8",
        "1/3",
        "1/15",
        "1/24",
    ]
    assert val.class_counts() == [4, 4]


@given(counts=COUNTS, shots=st.integers(1, 30), seed=st.integers(0, 1000))
def test_coop_few_shot__any_split__has_at_most_k_of_each_class(counts, shots, seed):
    split = split_of(counts)
    train, val = coop_few_shot(split, split, shots, seed)
    assert train.class_counts() == [min(count, shots) for count in counts]
    assert val.class_counts() == [min(count, shots, 4) for count in counts]
    assert len(set(train.samples)) == len(train) <= len(split)
    assert set(train.samples) <= set(split.samples)


LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=60)


@given(train=LABELS, val=LABELS, shots=st.integers(1, 16), seed=st.integers(0, 2**40))
def test_coop_few_shot__labels_in_any_order__draws_as_the_global_stream_would(
    train, val, shots, seed
):
    rows = {
        name: [[f"{name}/{index}", label, ""] for index, label in enumerate(labels)]
        for name, labels in (("train", train), ("val", val))
    }
    lists = {
        name: Split(name, tuple(Sample(0, label, key) for key, label, _ in part), tuple("abcdef"))
        for name, part in rows.items()
    }
    random.seed(seed)
    expected = [
        drawn_with_the_global_stream(rows["train"], shots),
        drawn_with_the_global_stream(rows["val"], min(shots, 4)),
    ]
    chosen = coop_few_shot(lists["train"], lists["val"], shots, seed)
    assert [[sample.key for sample in split.samples] for split in chosen] == expected


def test_coop_few_shot__no_shots__is_refused():
    with pytest.raises(DataError, match="0 shots"):
        coop_few_shot(split_of([3]), None, 0, 1)


# Halves of the classes


def splits_of(counts: list[int]) -> Splits:
    train = split_of(counts)
    test = train.with_samples(reversed(train.samples), "test")
    texts = tuple(name.upper() for name in train.class_names)
    return Splits(train, None, test, train.class_names, texts)


@given(counts=st.lists(st.integers(1, 5), min_size=2, max_size=9))
def test_restrict_classes__base_and_new__part_the_classes(counts):
    splits = splits_of(counts)
    base, new = restrict_classes(splits, "base"), restrict_classes(splits, "new")
    assert len(base.class_names) - len(new.class_names) == len(counts) % 2
    assert base.class_names + new.class_names == splits.class_names
    assert base.text_names + new.text_names == splits.text_names
    middle = len(base.class_names)
    for half, share in ((base, counts[:middle]), (new, counts[middle:])):
        assert half.val is None
        for split in (half.train, half.test):
            assert split.class_names == half.class_names
            assert split.class_counts() == share
            for sample in split.samples:
                assert half.class_names[sample.label] == f"c{sample.key.split('/')[0]}"


def test_restrict_classes__all__changes_nothing():
    splits = splits_of([2, 1, 3])
    assert restrict_classes(splits, "all") is splits


def test_restrict_classes__nothing_left__is_refused():
    with pytest.raises(DataError, match=r"'train' has no image of the new classes \(0 of 1\)"):
        restrict_classes(splits_of([4]), "new")


def test_every_choice_and_order__of_some_images__stays_as_it_is_for_ever():
    """What a run with a seed was trained on must not change with how splits are held."""
    split = split_of([7, 1, 12, 5])
    val = split_of([3, 2, 2, 6])

    def keys(each: Split) -> list[str]:
        return [sample.key for sample in each.samples]

    found = {
        "rest": keys(holdout(split, 0.3, 7)[0]),
        "few": keys(few_shot(split, 1, 2)),
        "coop": [keys(each) for each in coop_few_shot(split, val, 3, 2)],
        "order": list(EpochBatches(20, 6, seed=3, epoch=2)),
        "balanced": list(EpochBatches(25, 6, seed=3, epoch=2, balance=split.labels)),
    }
    digest = hashlib.sha256(json.dumps(found).encode()).hexdigest()
    assert digest == "c8a5dcda3c544d9a0e90ec88b5026ce3a53701dcd7c6eb6ff34a806132492d97"
