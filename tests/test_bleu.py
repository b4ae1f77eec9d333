"""BLEU as an evaluation, against sacreBLEU on the whole corpus."""

import jax.numpy as jnp
import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU

from jaxmodels import metrics, sharding, train
from jaxmodels.errors import UserError

WORDS = ["<pad>", "<unk>", "<bos>", "<eos>", "a", "man", "dog", "runs", "sits", ",", ".", "red"]
N, T = 23, 9


class Pairs:
    """A split, as far as evaluation knows one; `index` stands in another order."""

    name = "pairs/test"

    def __init__(self, source, index):
        self.arrays = {"source": source, "target": source, "index": index}

    def preprocess(self, batch):
        return batch

    def padded(self, size, rows=None):
        for start in range(0, N, size):
            every = np.arange(start, start + size)
            mask = every < N
            batch = {k: v[np.where(mask, every, start)] for k, v in self.arrays.items()}
            yield {**batch, "mask": mask}


def sentences(seed):
    """Ids (N, T), each row ended by <eos>, after which there is rubbish."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(4, len(WORDS), (N, T))
    ids[np.arange(N), rng.integers(2, T, N)] = 3
    return ids.astype(np.int32)


def decode(ids):
    return " ".join(WORDS[n] for n in ids)


def text(ids):
    """A sentence as one would write it."""
    return decode(ids).replace(" ,", ",").replace(" .", ".").capitalize()


def tokenize(line):
    return line.lower().replace(",", " ,").replace(".", " .").split()


def before_eos(ids):
    return [list(row[: list(row).index(3)]) for row in ids]


OUTPUTS = sentences(0)


@pytest.fixture(scope="module")
def references():
    """Near the outputs: every third word is another one."""
    rng = np.random.default_rng(1)
    changed = np.where(rng.random(OUTPUTS.shape) < 0.3, sentences(2), OUTPUTS)
    changed[:, -1] = 3
    return [text(ids) for ids in before_eos(changed)]


def evaluation(references, index=None, outputs=OUTPUTS, batch_size=8):
    return metrics.bleu(
        lambda variables, source: source + variables["params"]["zero"],
        Pairs(outputs, np.arange(N, dtype=np.int32) if index is None else index),
        references,
        tokenize=tokenize,
        words=decode,
        text=text,
        batch_size=batch_size,
    )


def evaluated(evaluation):
    return train.evaluate(evaluation, {"zero": jnp.int32(0)}, {}, sharding.mesh())


@pytest.mark.parametrize("batch_size", [8, 16, 40])
def test_the_found_are_sacrebleus_of_the_whole_corpus(references, batch_size):
    found = evaluated(evaluation(references, batch_size=batch_size))
    outputs = before_eos(OUTPUTS)
    tokens = [" ".join(tokenize(line)) for line in references]
    ours = BLEU(tokenize="none", force=True).corpus_score(list(map(decode, outputs)), [tokens])
    theirs = BLEU().corpus_score(list(map(text, outputs)), [references])
    assert 10 < ours.score < 90
    np.testing.assert_allclose(found["bleu"], ours.score, rtol=1e-12)
    np.testing.assert_allclose(found["sacrebleu"], theirs.score, rtol=1e-12)
    np.testing.assert_allclose(found["length_ratio"], ours.sys_len / ours.ref_len)


def test_references_are_found_by_index(references):
    index = np.random.default_rng(3).permutation(N).astype(np.int32)
    moved = [references[n] for n in np.argsort(index)]
    assert evaluated(evaluation(moved, index)) == evaluated(evaluation(references))


def test_a_perfect_translation():
    same = [text(ids) for ids in before_eos(OUTPUTS)]
    found = evaluated(evaluation(same))
    assert found == pytest.approx({"bleu": 100, "sacrebleu": 100, "length_ratio": 1})


def test_nothing_is_worth_nothing(references):
    found = evaluated(evaluation(references, outputs=np.full_like(OUTPUTS, 3)))
    assert found == {"bleu": 0.0, "sacrebleu": 0.0, "length_ratio": 0.0}


def test_an_index_without_a_reference(references):
    with pytest.raises(UserError, match="the index 20, but there are 20 references"):
        evaluated(evaluation(references[:20]))
