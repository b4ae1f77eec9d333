"""Sources, splits and the order of batches."""

import itertools

import jax
import numpy as np
import pytest

from jaxmodels import data
from jaxmodels.data import shuffle
from jaxmodels.errors import UserError

SIZE, B = 50, 16


def arrays(size=SIZE):
    x = np.arange(size * 4, dtype=np.uint8).reshape(size, 2, 2, 1)
    return {"image": x, "label": np.arange(size) % 10, "row": np.arange(size)}


class Items:
    """A user's own data: nothing but a length and items; `broken` ones raise."""

    def __init__(self, columns, broken=()):
        self.columns, self.broken = columns, broken

    def __len__(self):
        return len(self.columns["label"])

    def __getitem__(self, index):
        if index in self.broken:
            raise OSError("not a PNG")
        return {key: column[index] for key, column in self.columns.items()}


def in_memory(**kwargs):
    return data.split(arrays(), num_classes=10, **kwargs)


def one_by_one(broken=(), **kwargs):
    return data.split(Items(arrays(), broken), num_classes=10, **kwargs)


def equal(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("make", [in_memory, one_by_one])
class TestBatches:
    def test_is_a_function_of_source_seed_and_number(self, make):
        first, again = make().batches(B, seed=3), make().batches(B, seed=3)
        for n in (7, 0, 10**6, 7):
            assert equal(first[n], again[n])
        assert not equal(first[7], first.reseed(4)[7])
        assert equal(first.reseed(4)[7], make().batches(B, seed=4)[7])

    def test_rows_are_those_of_the_whole_batch(self, make):
        batches = make().batches(B)
        rows = np.array([15, 3, 4])
        for n in (2, 3, 4):
            whole = batches[n]
            assert equal(batches.read(n, rows), {k: v[rows] for k, v in whole.items()})

    def test_every_example_comes_once_an_epoch_across_the_seam(self, make):
        seen = np.concatenate([batch["row"] for batch in make().batches(B).iterate(0, 25)])
        epochs = seen[: len(seen) // SIZE * SIZE].reshape(-1, SIZE)
        assert len(epochs) == 8
        assert (np.sort(epochs) == np.arange(SIZE)).all()
        assert len({tuple(epoch) for epoch in epochs}) == 8

    def test_a_batch_may_be_larger_than_the_split(self, make):
        rows = make().batches(2 * SIZE + 7)[0]["row"]
        counts = np.bincount(rows, minlength=SIZE)
        assert set(counts) == {2, 3}

    def test_iterate_gives_the_batches_in_order(self, make):
        batches, rows = make().batches(B), np.array([0, 5])
        for n, batch in zip(range(3, 40), batches.iterate(3, 40), strict=True):
            assert equal(batch, batches[n])
        for n, batch in zip((5, 6), batches.iterate(5, 7, rows), strict=True):
            assert equal(batch, batches.read(n, rows))
        assert list(batches.iterate(4, 4)) == []

    def test_skip_leaves_examples_out_for_good(self, make):
        batches = make().batches(B, skip=[0, 17, 49])
        seen = np.concatenate([batch["row"] for batch in batches.iterate(0, 47)])
        assert set(range(SIZE)) - set(seen.tolist()) == {0, 17, 49}
        assert (np.bincount(seen, minlength=SIZE)[[1, 2, 48]] == 16).all()
        assert batches.steps_per_epoch == 47 / B

    def test_padded_covers_every_example_once(self, make):
        batches = make().padded(B)
        read = list(batches)
        assert len(read) == len(batches) == 4
        assert {len(batch["row"]) for batch in read} == {B}
        rows = np.concatenate([batch["row"][batch["mask"]] for batch in read])
        assert rows.tolist() == list(range(SIZE))
        part = np.array([1, 14])
        for whole, some in zip(read, make().padded(B, part), strict=True):
            assert equal(some, {k: v[part] for k, v in whole.items()})

    def test_example_tells_shapes_and_types(self, make):
        batches = make().batches(B)
        assert batches.example == {
            key: jax.ShapeDtypeStruct(value.shape, value.dtype) for key, value in batches[0].items()
        }
        assert batches[0]["label"].dtype == np.int32

    def test_stream_has_no_end(self, make):
        batches = make().batches(B)
        for n, batch in enumerate(itertools.islice(batches, 5)):
            assert equal(batch, batches[n])


def test_sources_of_both_kinds_give_the_same_batches():
    for n in range(5):
        assert equal(in_memory().batches(B)[n], one_by_one().batches(B)[n])


PINNED = ([0, 2, 9, 1, 8, 5, 4, 3, 6, 7], [8, 1, 3, 4, 9, 7, 5, 6, 0, 2])


def test_order_is_pinned():
    # Should this ever change, resumed and repeated runs would see other batches.
    assert shuffle.permutation(10, 0, 0).tolist() == PINNED[0]
    assert shuffle.permutation(10, 2**63 + 5, 3).tolist() == PINNED[1]


def test_order_is_uniform():
    # 4,000 permutations of 5: each number is expected in each place 800 times, deviation 25.
    counts = np.zeros((5, 5))
    for seed in range(4000):
        counts[np.arange(5), shuffle.permutation.__wrapped__(5, seed, 0)] += 1
    assert np.abs(counts - 800).max() < 5 * 25.3


def test_fields_that_no_device_holds_stay_out_of_batches():
    columns = arrays() | {"id": np.array([f"n{i}" for i in range(SIZE)])}
    for split in (data.split(columns), data.split(Items(columns))):
        assert split[3]["id"] == "n3"
        assert "id" not in split.batches(B)[0]


def test_preprocess_and_transform():
    split = in_memory().map(lambda batch: {**batch, "image": batch["image"] * 2})
    batches = split.batches(B, transform=lambda key, batch: {**batch, "key": jax.random.bits(key)})
    raw, key = batches[0], jax.random.key(1)
    made = jax.jit(batches.prepare)(key, raw)
    assert made["image"].dtype == np.float32
    np.testing.assert_allclose(made["image"], raw["image"] / 255 * 2, rtol=1e-6)
    assert made["key"] == jax.random.bits(key)


def test_digits():
    digits = data.load("digits")
    train, test = digits["train"], digits["test"]
    assert (len(train), len(test), digits.num_classes) == (1437, 360, 10)
    counts = np.bincount(test.source.arrays["label"])
    assert set(counts) <= {34, 35, 36, 37}
    from sklearn.datasets import load_digits

    ink = np.round(np.concatenate([s.source.arrays["image"] for s in (train, test)]) * (16 / 255))
    original = load_digits().images
    assert sorted(map(bytes, ink.astype(np.uint8))) == sorted(map(bytes, original.astype(np.uint8)))


def test_image_shape_fits_the_images():
    digits = data.load("digits", image_shape=(32, 28, 3))
    train = digits["train"]
    image = train.preprocess(train.read(np.arange(4)))["image"]
    assert image.shape == (4, 32, 28, 3)
    assert digits.map(lambda batch: {"x": batch["image"]})["test"].preprocess(
        digits["test"].read(np.arange(2))
    ).keys() == {"x"}


def test_dataset_is_a_mapping_of_splits():
    made = data.from_arrays(train=arrays(), test=arrays(20), class_names=tuple("abcdefghij"))
    assert list(made) == ["train", "test"]
    assert (made.num_classes, made["test"].class_names[1]) == (10, "b")
    assert made["train"].name == "arrays/train"
    assert made.get("validation") is None
    with pytest.raises(UserError, match="no split 'validation'; it has: train, test"):
        made["validation"]


def bad_labels():
    columns = arrays()
    columns["label"][[3, 8]] = 10, -1
    return columns


LENGTHS = {"image": np.zeros((3, 2)), "label": np.zeros(2, int)}
RAGGED = [{"x": np.zeros(2)}, {"x": np.zeros(3)}]


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: data.from_arrays(train=bad_labels(), num_classes=10), "Example 3 of arrays/train"),
        (
            lambda: data.split(Items(bad_labels()), num_classes=10).read([8]),
            r"Example 8 .*label -1",
        ),
        (lambda: data.from_arrays(train=arrays(5), test=arrays()), r"Example 5 .* in 0\.\.4"),
        (lambda: data.from_arrays(train=LENGTHS), "lengths are {'image': 3, 'label': 2}"),
        (lambda: data.from_arrays(train=arrays(0)), "arrays/train has no examples"),
        (lambda: data.from_arrays(), "at least one split"),
        (lambda: data.split(Items(arrays(0))), "data has no examples"),
        (lambda: data.split({"label": np.ones(3)}, num_classes=3), "must be integers.* float64"),
        (lambda: data.split(iter([])), "it needs `__len__` and `__getitem__`"),
        (lambda: data.split([1, 2]).batches(2)[0], "of type int; a dict was expected"),
        (lambda: data.split(RAGGED).batches(2)[0], r"'x' of shape \((2|3),\)"),
        (lambda: data.split([{"x": 1}, {"y": 1}]).read([0, 1]), r"Example 1 .* no 'x'; it has"),
        (lambda: data.split({"x": np.array([2**40])}).read([0]), "beyond 32 bits"),
        (lambda: in_memory().batches(0), "at least 1; it is 0"),
        (lambda: in_memory().padded(-1), "at least 1; it is -1"),
        (lambda: in_memory().batches(B, seed=-1), "it is -1"),
        (lambda: in_memory().batches(B)[-1], "numbered from 0"),
        (lambda: in_memory().batches(B).read(0, np.array([B])), r"Rows must be in 0\.\.15"),
        (lambda: in_memory().batches(B, skip=[SIZE]), "Cannot skip example 50"),
        (lambda: in_memory().batches(B, skip=np.zeros(SIZE, bool)), "not as bool"),
        (lambda: in_memory().batches(B, skip=range(SIZE)), "has no examples"),
        (lambda: data.split(arrays(), num_classes=10, class_names=("a",)), "1 class names for 10"),
    ],
)
def test_mistakes_are_told(action, message):
    with pytest.raises(UserError, match=message):
        action()


@pytest.mark.parametrize("rows", [None, np.arange(4)])
def test_corrupt_record_in_training_names_source_split_and_index(rows):
    split = one_by_one(broken=[33], name="mine/train")
    with pytest.raises(data.DataError, match=r"Example 33 of mine/train .* not a PNG") as caught:
        list(split.batches(B).iterate(0, 40, rows))
    assert (caught.value.source, caught.value.split, caught.value.index) == ("mine", "train", 33)
    seen = split.batches(B, skip=[33]).iterate(0, 40)
    assert 33 not in np.concatenate([batch["row"] for batch in seen])


def test_items_are_read_many_at_once_where_that_is_offered():
    asked = []

    class Many(Items):
        def __getitems__(self, places):
            asked.append(places)
            if 33 in places:
                raise OSError("one of them")
            return [Items.__getitem__(self, place) for place in places]

    split = data.split(Many(arrays(), broken=[33]), name="mine/train")
    assert equal(split.read([4, 2]), in_memory().read([4, 2]))
    assert asked == [[4, 2]]
    with pytest.raises(data.DataError, match="Example 33"):
        split.read([4, 33])


def test_reading_ahead_can_stop_early():
    stream = one_by_one().batches(B).iterate(0, 10**9)
    assert equal(next(stream), one_by_one().batches(B)[0])


def test_what_data_print_is_short():
    digits = data.load("digits")
    assert repr(digits) == "Dataset('digits', splits train, test, 10 classes)"
    assert "image: uint8[1437, 8, 8, 1]" in repr(digits["train"].batches(8))
    assert len(repr(digits["train"].batches(8))) < 400


@pytest.mark.parametrize("digits", [1, 2, 3])
def test_no_sum_of_the_test_split_is_in_training(digits):
    sums = data.synthetic.addition(digits, train=20_000, test=5_000)
    questions = {}
    for name in ("train", "test"):
        tokens = sums[name].read(np.arange(len(sums[name])))["tokens"]
        texts = ["".join(data.synthetic.ADDITION[n] for n in row) for row in tokens]
        for text in texts:
            question, _, answer = text.partition("=")
            assert sum(map(int, question.split("+"))) == int(answer.strip(" ."))
        questions[name] = {text.partition("=")[0] for text in texts}
    assert not questions["train"] & questions["test"]
    if digits == 1:
        assert (len(questions["train"]), len(questions["test"])) == (90, 10)
