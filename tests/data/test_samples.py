"""Samples, made when they are looked at, are those that were put in."""

import pickle  # noqa: TID251 - workers that are spawned get samples so
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpt.data.boxes.detection_samples import DetectionSample, DetectionSamples
from vpt.data.samples import Sample, Samples
from vpt.data.sources import PackedImage, Sources, SourcesBuilder
from vpt.data.splits import Split
from vpt.data.texts import Texts

NAMES = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="\0") | st.just("/"), max_size=9
)
KEYS = NAMES | st.sampled_from(["a/b.jpg", "a/./b.jpg", "../b.jpg", "b.jpg", "é.jpg", "\udce9.jpg"])
FILES = st.builds(lambda folder, key: (key, Path(folder) / key), NAMES, KEYS) | st.tuples(
    KEYS, st.builds(Path, NAMES)
)
PACKED = st.builds(
    lambda key, file, row: (key, PackedImage(Path(file), row, "image")),
    KEYS,
    st.sampled_from(["a.parquet", "b.parquet"]),
    st.integers(0, 9),
)
SOURCES = st.lists(FILES | PACKED | st.tuples(KEYS, st.integers(0, 2**40)), max_size=8)
LABELS = st.integers(0, 9)
SEVERAL = st.lists(LABELS, max_size=4, unique=True).map(lambda own: tuple(sorted(own)))


@st.composite
def samples(draw) -> list[Sample]:
    labels = draw(st.sampled_from([LABELS, SEVERAL]))
    return [Sample(source, draw(labels), key) for key, source in draw(SOURCES)]


def places_of(count: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, count - 1), max_size=12) if count else st.just([])


@given(texts=st.lists(KEYS, max_size=9), data=st.data())
def test_texts__are_those_that_were_put_in(texts, data):
    packed = Texts.of(texts)
    assert (list(packed), len(packed), list(packed[1:5])) == (texts, len(texts), texts[1:5])
    places = data.draw(places_of(len(texts)))
    taken = packed.take(np.array(places, dtype=np.int64))
    assert list(taken) == [texts[place] for place in places]
    assert list(Texts.joined([packed, taken])) == [*texts, *taken]


@given(texts=st.lists(st.sampled_from("abcdefgh"), max_size=9))
def test_first_repeated__is_the_first_that_was_there_before(texts):
    again = next((i for i, text in enumerate(texts) if text in texts[:i]), None)
    expected = None if again is None else (texts.index(texts[again]), again)
    assert Texts.of(texts).first_repeated() == expected


def test_first_repeated__of_equal_hashes__compares_the_strings(monkeypatch):
    monkeypatch.setattr("builtins.hash", lambda text: len(text))
    assert Texts.of(["ab", "cd", "ef", "gh", "cd"]).first_repeated() == (1, 4)
    assert Texts.of(["ab", "cd", "ef"]).first_repeated() is None


@given(given=SOURCES, data=st.data())
def test_sources__are_those_that_were_put_in(given, data):
    builder = SourcesBuilder()
    for key, source in given:
        builder.append(key, source)
    built = builder.build()
    places = data.draw(places_of(len(given)))
    taken = built.take(np.array(places, dtype=np.int64))
    both = Sources.joined([taken, built])
    expected = [*(given[place] for place in places), *given]
    assert [(both.keys[i], both.source(i)) for i in range(len(both))] == expected
    assert both.in_arrays == any(isinstance(source, int) for _, source in expected)


@pytest.mark.parametrize("folder", ["", ".", "/", "a", "/a/b", "a/"])
@pytest.mark.parametrize("keys", [["x.jpg", "y/z.jpg"], ["/other/x.jpg", "y.jpg"]])
def test_sources_below_a_folder__are_its_files(folder, keys):
    sources = Sources.below(Path(folder), Texts.of(keys))
    found = [sources.source(place) for place in range(len(keys))]
    assert found == [Path(folder) / key for key in keys]


@given(given=samples(), data=st.data())
def test_samples__are_those_that_were_put_in(given, data):
    packed = Samples.of(iter(given))
    assert list(packed) == given == list(pickle.loads(pickle.dumps(packed)))
    assert packed == tuple(given)
    assert packed[::-1] == given[::-1]
    assert [packed[i] for i in range(-len(given), 0)] == given
    places = data.draw(places_of(len(given)))
    taken = packed.take(np.array(places, dtype=np.int64))
    assert taken == [given[place] for place in places]
    assert packed + taken == [*given, *taken]
    with pytest.raises(IndexError):
        packed[len(given)]


def test_samples_of_one_label_and_of_several__are_not_mixed():
    one, several = Sample(0, 1, "one"), Sample(1, (1,), "several")
    with pytest.raises(ValueError, match="'several' has one label where others have several"):
        Samples.of([one, several])
    with pytest.raises(ValueError, match="cannot be joined"):
        Samples.joined([Samples.of([one]), Samples.of([several])])


@given(given=samples())
def test_a_split__counts_as_its_samples_one_by_one(given):
    split = Split("train", given, tuple("abcdefghij"))
    each = [label for sample in given for label in sample.classes]
    assert split.class_counts() == [each.count(label) for label in range(10)]
    assert split.multi_label == any(not isinstance(sample.label, int) for sample in given)
    if not split.multi_label:
        assert split.labels == tuple(each)


def test_a_sample_in_a_split__takes_no_more_bytes_than_its_name_and_some_numbers():
    made = (
        Sample(Path(f"/data/set/n{i % 9}/{i:09d}.JPEG"), i % 9, f"n{i % 9}/{i:09d}.JPEG")
        for i in range(2000)
    )
    assert len(pickle.dumps(Samples.of(made))) < 2000 * (17 + 8 + 4 + 4) + 2000


def boxed(number: int, count: int) -> DetectionSample:
    random = np.random.default_rng(number)
    return DetectionSample(
        Path(f"/images/{number}.jpg"),
        f"{number}.jpg",
        100 + number,
        (480 + number, 640),
        random.random((count, 4)),
        random.integers(0, 3, count),
        random.random(count) < 0.3,
        random.random(count),
        np.arange(count) + 50 * number,
    )


def same(one: DetectionSample, other: DetectionSample) -> bool:
    return all(
        np.array_equal(getattr(one, each.name), getattr(other, each.name)) for each in fields(one)
    )


@given(counts=st.lists(st.integers(0, 5), max_size=6), data=st.data())
def test_detection_samples__are_those_that_were_put_in(counts, data):
    given = [boxed(number, count) for number, count in enumerate(counts)]
    packed = DetectionSamples.of(iter(given))
    assert len(packed) == len(given)
    assert all(map(same, packed, given))
    assert all(map(same, pickle.loads(pickle.dumps(packed)), given))
    assert packed.target_counts.tolist() == [len(sample.target_labels) for sample in given]
    assert packed.box_counts.tolist() == counts
    assert packed.image_ids.tolist() == [sample.image_id for sample in given]
    places = data.draw(places_of(len(given)))
    taken = packed.take(np.array(places, dtype=np.int64))
    assert len(taken) == len(places)
    assert all(map(same, taken, [given[place] for place in places]))
    kinds = {name: getattr(each, name).dtype for each in taken for name in ("boxes", "labels")}
    assert all(kind in (np.float64, np.int64) for kind in kinds.values())
