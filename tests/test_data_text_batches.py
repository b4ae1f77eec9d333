"""Batches of tokens: pure, complete, the same on any number of hosts."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels import sharding
from jaxmodels.data import Split, text
from jaxmodels.data.text.packing import _rows
from jaxmodels.errors import UserError
from jaxmodels.metrics import Evaluation
from jaxmodels.train import evaluate

IDS = np.arange(4, 107)  # each token once, so that a window tells where it stands
B, T = 6, 8


def equal(one, other):
    return one.keys() == other.keys() and all(
        np.array_equal(one[k], other[k]) and one[k].dtype == other[k].dtype for k in one
    )


def sentences(count=200, seed=0, longest=20):
    sizes = np.random.default_rng(seed).integers(1, longest + 1, count)
    return [np.random.default_rng(seed + i).integers(4, 50, n) for i, n in enumerate(sizes)]


def translation(count=200, **kwargs):
    return text.pairs(sentences(count), sentences(count, seed=7), "toy/train", **kwargs)


def documents():
    return [*sentences(60, longest=9), np.arange(4, 54), np.arange(4, 21)]


def packed():
    return text.pack_documents([ids for ids in documents() if len(ids) > 1], T)


STREAMS = {
    "windows": lambda: text.windows(IDS, T).batches(B),
    "blocks": lambda: text.disjoint_windows(IDS, T).batches(B),
    "stream": lambda: text.stream(IDS, B, T),
    "pairs": lambda: translation().batches(B),
    "bucketed": lambda: text.bucket_by_length(translation(), B, (8, 12, 16, 22)),
    "packed": lambda: packed().batches(B),
}
PADDED = {
    "blocks": lambda rows: text.disjoint_windows(IDS, T).padded(8, rows),
    "consecutive": lambda rows: text.evaluation_stream(IDS, 3, T).padded(8, rows),
    "pairs": lambda rows: translation(41).padded(8, rows),
    "packed": lambda rows: packed().padded(8, rows),
}


@pytest.mark.parametrize("make", STREAMS.values(), ids=STREAMS)
class TestBatches:
    def test_are_a_function_of_seed_and_number(self, make):
        first, again = make().reseed(3), make().reseed(3)
        for n in (7, 0, 10**6, 7):
            assert equal(first[n], again[n])

    def test_hosts_together_read_the_whole(self, make):
        batches = make()
        for n, hosts in itertools.product((0, 1, 50), ([[0, 1, 2], [3, 4, 5]], [[5], [0, 2, 4]])):
            whole = batches[n]
            for rows in map(np.array, hosts):
                assert equal(batches.read(n, rows), {k: v[rows] for k, v in whole.items()})

    def test_iterate_gives_them_in_order(self, make):
        batches = make()
        for n, batch in zip(range(3, 40), batches.iterate(3, 40), strict=True):
            assert equal(batch, batches[n])
        rows = np.array([4, 1])
        for n, batch in zip((5, 6), batches.iterate(5, 7, rows), strict=True):
            assert equal(batch, batches.read(n, rows))

    def test_tell_what_training_asks(self, make):
        batches = make()
        batch = batches[0]
        assert batches.batch_size == B
        assert batches.steps_per_epoch > 0
        assert batches.example.keys() == batch.keys()
        for key, spec in batches.example.items():
            assert (spec.shape[0], spec.dtype) == (B, batch[key].dtype)
            assert batch[key].dtype in (np.int32, np.bool_)
        prepared = jax.eval_shape(batches.prepare, jax.random.key(0), batches.example)
        assert prepared == batches.example
        one = batches.split.example(1)
        assert all(one[key].shape[0] == 1 for key in batch)
        assert jax.eval_shape(batches.split.preprocess, one) == one
        assert "/" in batches.split.name or batches.split.name == "documents"

    def test_refuse_numbers_and_rows_that_are_none(self, make):
        with pytest.raises(UserError, match="numbered from 0"):
            make()[-1]
        with pytest.raises(UserError, match=r"Rows must be in 0\.\.5"):
            make().read(0, np.array([6]))


@pytest.mark.parametrize("make", PADDED.values(), ids=PADDED)
def test_hosts_together_evaluate_the_whole(make):
    whole = list(make(None))
    assert len(whole) == len(make(None))
    for rows in map(np.array, ([0, 1, 2, 3], [4, 5, 6, 7], [7, 2])):
        part = make(rows)
        assert len(part) == len(whole)
        for all_rows, some in zip(whole, part, strict=True):
            assert equal(some, {k: v[rows] for k, v in all_rows.items()})
    with pytest.raises(IndexError):
        make(None)[len(whole)]


class TestWindows:
    def test_every_start_comes_once_an_epoch(self):
        batches = text.windows(IDS, T).batches(5)
        assert batches.steps_per_epoch == (len(IDS) - T) / 5
        seen = list(batches.iterate(0, (len(IDS) - T) // 5))
        starts = np.concatenate([batch["tokens"][:, 0] for batch in seen])
        assert sorted(starts) == IDS[:-T].tolist()
        for batch in seen:
            assert (batch["tokens"] == batch["tokens"][:, :1] + np.arange(T)).all()
            assert (batch["targets"] == batch["tokens"] + 1).all()

    def test_small_types_stay_small_until_they_are_read(self):
        ids = IDS.astype(np.uint16)
        split = text.windows(ids, T)
        assert split.source.ids is ids
        assert split.read([0])["tokens"].dtype == np.int32
        assert split[3]["tokens"].tolist() == IDS[3 : 3 + T].tolist()

    def test_bad_texts(self):
        assert len(text.windows(IDS[: T + 1], T)) == 1
        with pytest.raises(UserError, match="mine has 8 tokens; it needs at least 9"):
            text.windows(IDS[:T], T, "mine")
        with pytest.raises(UserError, match="0 tokens"):
            text.windows([], T)
        with pytest.raises(UserError, match=r"Token 96 of text/train has the id 100; .* 0\.\.99"):
            text.windows(IDS, T, vocab_size=100)
        with pytest.raises(UserError, match="float64"):
            text.windows(IDS / 2, T)
        with pytest.raises(UserError, match="at least 1 token; it is 0"):
            text.windows(IDS, 0)


@pytest.mark.parametrize("size", [2, 3, 9, 10, 17, 100, 103])
def test_blocks_have_every_target_once(size):
    ids = IDS[:size]
    split = text.disjoint_windows(ids, T)
    batches = list(split.padded(4))
    counted = np.concatenate([b["targets"][b["valid"] & b["mask"][:, None]] for b in batches])
    inputs = np.concatenate([b["tokens"][b["valid"] & b["mask"][:, None]] for b in batches])
    assert counted.tolist() == ids[1:].tolist()
    assert inputs.tolist() == ids[:-1].tolist()
    assert all((b["tokens"][~b["valid"]] == 0).all() for b in batches)
    with pytest.raises(UserError, match="needs at least 2"):
        text.disjoint_windows(ids[:1], T)


class TestStream:
    def test_rows_go_on_where_they_ended(self):
        batches = text.stream(IDS, B, T)  # 103 tokens: 6 parts of 17, two windows each
        assert batches.steps_per_epoch == 2
        parts = IDS[: 6 * 17].reshape(6, 17)
        for n in range(5):
            place = n % 2 * T
            assert np.array_equal(batches[n]["tokens"], parts[:, place : place + T])
            assert np.array_equal(batches[n]["targets"], parts[:, place + 1 : place + T + 1])
            assert (batches[n]["first"] == (n % 2 == 0)).all()

    def test_a_seed_changes_nothing(self):
        batches = text.stream(IDS, B, T)
        assert equal(batches[1], batches.reseed(4)[1])

    @pytest.mark.parametrize(("rows", "size"), [*itertools.product([1, 3, 7], [11, 33, 57, 103])])
    def test_evaluation_has_every_target_once(self, rows, size):
        ids = IDS[:size]
        batches = list(text.evaluation_stream(ids, rows, T).padded(8))
        parts: list[list[int]] = [[] for _ in range(rows)]
        for n, batch in enumerate(batches):
            assert batch["mask"].tolist() == [True] * rows + [False] * (8 - rows)
            assert (batch["first"] == (n == 0)).all()
            assert not batch["valid"][rows:].any()
            for row in range(rows):
                valid = batch["valid"][row]
                parts[row].extend(batch["targets"][row][valid])
                # Each token comes after the one before, also across batches.
                assert (batch["targets"][row][valid] == batch["tokens"][row][valid] + 1).all()
        assert [token for part in parts for token in part] == ids[1:].tolist()
        sizes = list(map(len, parts))
        assert max(sizes) - min(sizes) <= 1

    def test_an_evaluation_counts_every_token_but_the_first(self):
        def statistics(outputs, batch):
            return {"tokens": jnp.sum(batch["valid"] & batch["mask"][:, None])}

        class Echo:
            def init(self, rngs, tokens):
                return {}

            def apply(self, variables, tokens, mutable):
                return tokens, {}

        for split in (text.evaluation_stream(IDS, 1, T), text.disjoint_windows(IDS, T)):
            evaluation = Evaluation(Echo(), split, ("tokens",), statistics, dict, batch_size=1)
            assert evaluate(evaluation, {}, {}, sharding.mesh())["tokens"] == len(IDS) - 1

    def test_bad_texts(self):
        assert text.stream(IDS[: 2 * (T + 1)], 2, T).steps_per_epoch == 1
        with pytest.raises(UserError, match="has 17 tokens; it needs at least 18"):
            text.stream(IDS[:17], 2, T)
        with pytest.raises(UserError, match="has 3 tokens; it needs at least 4"):
            text.evaluation_stream(IDS[:3], 3, T)
        with pytest.raises(UserError, match="number of rows must be at least 1; it is 0"):
            text.stream(IDS, 0, T)
        with pytest.raises(UserError, match="a batch of 2 cannot hold them"):
            text.evaluation_stream(IDS, 3, T, "mine").padded(2)
        with pytest.raises(UserError, match="Token 6"):
            text.evaluation_stream(IDS, 1, T, vocab_size=10)


class TestPairs:
    def test_are_framed_and_padded(self):
        split = text.pairs([[7, 8], [9]], [[4], [5, 6, 7, 8]], "toy")
        batch = split.read([1, 0])
        assert batch["source"].tolist() == [[2, 9, 3, 0, 0], [2, 7, 8, 3, 0]]
        assert batch["target"].tolist() == [[2, 5, 6, 7, 8, 3], [2, 4, 3, 0, 0, 0]]
        assert batch["index"].tolist() == [1, 0]
        assert text.pair_lengths(split).tolist() == [4, 5]
        assert text.pairs([[7]], [[4]], length=9).read([0])["target"].shape == (1, 10)
        assert split[0]["source"].tolist() == [2, 7, 8, 3]

    def test_long_ones_can_be_left_out(self):
        split = text.filter_by_length(translation(), 12)
        assert 0 < len(split) < 200
        assert text.pair_lengths(split).max() <= 12
        batch = split.read(np.arange(len(split)))
        assert batch["source"].shape[1] == 12
        kept = np.flatnonzero(text.pair_lengths(translation()) <= 12)
        assert np.array_equal(batch["index"], kept)
        assert (batch["target"] == 3).sum() == len(split)

    def test_bad_pairs(self):
        with pytest.raises(UserError, match="2 sources and 1 targets"):
            text.pairs([[4], [5]], [[4]])
        with pytest.raises(UserError, match="0 sources and 0 targets"):
            text.pairs([], [])
        with pytest.raises(UserError, match="Sentence 1 of pairs, targets must be ids"):
            text.pairs([[4], [5]], [[4], []])
        for special in (0, 2, 3, -1):
            with pytest.raises(
                UserError, match=f"Sentence 2 of pairs, sources holds the special token {special}"
            ):
                text.pairs([[4, 5], [1], [5, special, 4]], [[4], [4], [4]])
        with pytest.raises(UserError, match=r"1 of 2 pairs .* longer than 3, first pair 1, .* 5"):
            text.pairs([[4], [5, 6, 7]], [[4], [4]], length=3)
        with pytest.raises(UserError, match="is not a split of sentence pairs"):
            text.pair_lengths(text.windows(IDS, T))


class TestBucketed:
    EDGES = (8, 12, 16, 22)

    def batches(self, split=None, size=16):
        return text.bucket_by_length(split or translation(), size, self.EDGES)

    def test_no_pair_is_cut_or_comes_twice_an_epoch(self):
        split, batches = translation(), self.batches()
        steps = batches.steps_per_epoch
        assert steps == 200 // 16
        left_out = []
        for epoch in range(6):
            seen = []
            for n in range(epoch * steps, (epoch + 1) * steps):
                batch = batches[n]
                whole = split.read(batch["index"])
                width = batch["source"].shape[1]
                assert np.array_equal(batch["source"], whole["source"][:, :width])
                assert np.array_equal(batch["target"], whole["target"][:, : width + 1])
                assert not whole["source"][:, width:].any()
                assert not whole["target"][:, width + 1 :].any()
                seen.extend(batch["index"].tolist())
            assert len(set(seen)) == len(seen) == steps * 16
            left_out.append(frozenset(range(200)) - set(seen))
        assert len(set(left_out)) == 6

    def test_only_boundaries_are_lengths(self):
        batches = self.batches(size=4)
        widths = [batches[n]["source"].shape[1] for n in range(3 * batches.steps_per_epoch)]
        assert set(widths) == set(self.EDGES)
        assert widths != sorted(widths)
        # At most one batch at each bucket's end is padded further than its pairs need.
        for n in range(batches.steps_per_epoch):
            needed = text.pair_lengths(batches.split)[batches[n]["index"]]
            assert needed.max() <= widths[n]
            assert needed.max() > ([0, *self.EDGES])[self.EDGES.index(widths[n])]

    def test_epochs_and_seeds_differ(self):
        batches = self.batches()
        steps = batches.steps_per_epoch
        orders = {
            tuple(batches.reseed(seed)[epoch * steps]["index"])
            for seed in range(3)
            for epoch in range(3)
        }
        assert len(orders) == 9

    def test_order_is_pinned(self):
        # Should this ever change, resumed and repeated runs would see other batches.
        assert self.batches(size=4)[0]["index"].tolist() == [117, 199, 11, 156]

    def test_of_a_split_with_gaps(self):
        split = text.filter_by_length(translation(), 12)
        batches = text.bucket_by_length(split, 8, (8, 12))
        seen = {i for n in range(batches.steps_per_epoch) for i in batches[n]["index"].tolist()}
        assert seen <= set(split.indices(np.arange(len(split))).tolist())
        assert len(seen) == len(split) // 8 * 8

    def test_bad_boundaries(self):
        with pytest.raises(
            UserError, match=r"longer than 9, first pair \d+, .*text\.filter_by_length\(pairs, 9"
        ):
            text.bucket_by_length(translation(), 8, (5, 9))
        for edges in ((), (0, 30), (30, 20), (20, 20)):
            with pytest.raises(UserError, match="increasing lengths"):
                text.bucket_by_length(translation(), 8, edges)
        with pytest.raises(UserError, match="200 pairs, fewer than a batch of 201"):
            self.batches(size=201)
        with pytest.raises(UserError, match="at least 1"):
            self.batches(size=0)
        with pytest.raises(UserError, match="seed must be"):
            self.batches().reseed(-1)


class TestPacked:
    def test_every_target_comes_once_after_its_token(self):
        given = [ids for ids in documents() if len(ids) > 1]
        split = text.pack_documents(given, T)
        rows = split.read(np.arange(len(split)))
        found, used = [], 0
        for tokens, targets, segments, valid in zip(*rows.values(), strict=True):
            assert (valid == (segments > 0)).all()
            assert not tokens[~valid].any()
            numbers = segments[valid]
            assert (np.diff(segments[valid]) >= 0).all()
            assert set(numbers) == set(range(1, numbers.max() + 1))
            for number in set(numbers):
                inside = segments == number
                assert (tokens[inside][1:] == targets[inside][:-1]).all()
                found.append((*tokens[inside], targets[inside][-1]))
            used += valid.sum()
        pieces = [tuple(ids[at : at + T + 1]) for ids in given for at in range(0, len(ids) - 1, T)]
        assert sorted(found) == sorted(pieces)
        assert used == sum(len(ids) - 1 for ids in given)

    def test_rows_are_filled(self):
        sizes = np.random.default_rng(0).geometric(1 / 8, 2000).clip(1, 64).tolist()
        rows = _rows(sizes, 64)
        assert sorted(piece for row in rows for piece in row) == list(range(2000))
        assert all(sum(sizes[piece] for piece in row) <= 64 for row in rows)
        assert len(rows) == -(-sum(sizes) // 64)
        assert _rows([3, 3, 2, 2, 2], 6) == [[0, 1], [2, 3, 4]]

    def test_is_a_split(self):
        split = packed()
        assert isinstance(split, Split)
        assert split.example(3)["segments"].shape == (3, T)

    def test_bad_documents(self):
        with pytest.raises(UserError, match="document 1 of mine has 1 tokens"):
            text.pack_documents([[4, 5], [6]], T, "mine")
        with pytest.raises(UserError, match="no documents"):
            text.pack_documents([], T)
        with pytest.raises(UserError, match="at least 1 token"):
            text.pack_documents([[4, 5]], 0)
