"""Cleaning: each kind of bad example is found, by its index."""

import numpy as np
import pytest

from jaxmodels import data


def clean(size=12, seed=0):
    random = np.random.default_rng(seed)
    return {"image": random.normal(size=(size, 4, 4, 1)), "label": np.arange(size) % 3}


class Items(list):
    def __getitem__(self, index):
        item = super().__getitem__(index)
        if isinstance(item, Exception):
            raise item
        return item


def items(columns):
    rows = range(len(columns["label"]))
    return Items({key: column[row] for key, column in columns.items()} for row in rows)


@pytest.mark.parametrize("make", [dict, items])
def test_clean_data_are_clean(make):
    report = data.check(make(clean()), num_classes=3, against=make(clean(seed=1)))
    assert report.bad.tolist() == []
    assert str(report) == "data: 12 examples, 0 bad"


@pytest.mark.parametrize("make", [dict, items])
def test_findings_in_arrays_and_items(make):
    columns, other = clean(), clean(5, seed=1)
    columns["image"][7] = columns["image"][11] = columns["image"][2]
    columns["image"][[3, 4], 1, 1, 0] = np.nan, np.inf
    columns["label"][[5, 6]] = 3, -1
    other["image"][4] = columns["image"][9]
    report = data.check(make(columns), num_classes=3, against=make(other))
    assert report.duplicates == {7: 2, 11: 2}
    assert report.not_finite == {3: "image", 4: "image"}
    assert report.labels == {5: "3", 6: "-1"}
    assert report.overlap == {9: 4}
    assert report.bad.tolist() == [3, 4, 5, 6, 7, 9, 11]
    assert "2 duplicates of an earlier one: 7 (2), 11 (2)" in str(report)
    assert "1 also in other: 9 (4)" in str(report)


def test_unreadable_and_odd_items():
    found = items(clean())
    found[1] = OSError("no image")
    found[4] = {"image": np.zeros((4, 5, 1)), "label": 0}
    found[6] = {"image": np.ones((4, 4, 1), np.float32), "label": 0}
    found[8] = {"image": np.full((4, 4, 1), 2.0)}
    found[9] = 3
    split = data.split(found, name="mine/train", num_classes=3)
    report = data.check(split)
    assert sorted(report.unreadable) == [1, 9]
    assert "OSError: no image" in report.unreadable[1]
    assert sorted(report.shapes) == [4, 6, 8]
    assert report.shapes[4] == (
        "image: float64, shape (4, 5, 1) instead of image: float64, shape (4, 4, 1)"
    )
    assert report.bad.tolist() == [1, 4, 6, 8, 9]
    assert str(report).startswith("mine/train: 12 examples, 5 bad\n  2 unreadable: 1 (")
    # What was found is what training leaves out.
    list(split.batches(4, skip=report.bad).iterate(0, 10))
    rest = split.without(report.bad)
    assert data.check(rest).bad.tolist() == []
    assert sum(batch["mask"].sum() for batch in rest.padded(4)) == 7


def test_lengths_may_vary_but_ranks_and_types_not():
    sounds = [{"audio": np.full(5 + i, i, np.int16), "label": 0} for i in range(9)]
    sounds[3]["audio"] = np.zeros((2, 2), np.int16)
    sounds[5]["audio"] = np.zeros(4, np.float32)
    assert sorted(data.check(sounds).shapes) == [3, 5]


def test_texts_are_compared_where_there_are_no_arrays():
    texts = [{"sentence": text, "label": i, "idx": i} for i, text in enumerate("abcb")]
    assert data.check(texts).duplicates == {3: 1}


def test_indices_count_in_the_source():
    columns = clean()
    columns["image"][10] = np.nan
    split = data.split(columns).without([0, 1, 5])
    assert data.check(split).bad.tolist() == [10]


def test_embedded_digits():
    digits = data.load("digits")
    report = data.check(digits["train"], against=digits["test"])
    assert (report.examples, report.bad.tolist(), report.against) == (1437, [], "digits/test")
