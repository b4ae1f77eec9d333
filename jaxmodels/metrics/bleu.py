"""Translations, judged by BLEU."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxmodels.errors import UserError
from jaxmodels.inputs import pair_inputs
from jaxmodels.metrics.evaluation import Evaluation, Figures, Totals
from jaxmodels.special_tokens import truncate_at_eos
from jaxmodels.typing import Array, Batch

ORDERS = 4


@dataclasses.dataclass(frozen=True)
class Decoding:
    """A function `(variables, source (B, S)) -> ids (B, T)` in the place of a model."""

    decode: Callable[[Any, Array], Array]

    def init(self, rngs: Any, *inputs: Any, **kwargs: Any) -> Any:
        """Make no variables."""
        del rngs, inputs, kwargs
        return {}

    def apply(self, variables: Any, source: Array, *target: Array, **kwargs: Any) -> Any:
        """Decode, without a look at the target."""
        del target
        ids = self.decode(variables, source)
        return ids if kwargs.get("mutable", False) is False else (ids, {})


def bleu(
    decode: Callable[[Any, Array], Array],
    split: Any,
    references: Sequence[str],
    tokenize: Callable[[str], list[str]],
    words: Callable[[list[int]], str],
    text: Callable[[list[int]], str],
    inputs: Callable[[Batch], tuple] = pair_inputs,
    batch_size: int = 100,
) -> Evaluation:
    """Judge translations: BLEU of a corpus in 0..100, higher is better.

    Papineni et al., 2002, "BLEU: a method for automatic evaluation of machine translation", by
    sacreBLEU (Post, 2018), whose smoothing only tells where an order has no match at all.

    Figures: `bleu`, of our own tokens, `words(ids)` against `tokenize(reference)`; `sacrebleu`, of
    `text(ids)` against the reference as it is, both tokenised by sacreBLEU's 13a: this one can be
    compared between papers; `length_ratio`, our tokens per token of the references. Case counts:
    where the vocabulary knows only lower case, give references in lower case.

    Args:
        decode: of variables and source ids (B, S), ids (B, T), each row ended by `<eos>` (3); such
            as `generate.translator(model, 50)`.
        split: examples with "source", "target" and "index", the place of each in `references`.
        references: one translation a sentence, as its translator wrote it.
        tokenize: a reference's tokens.
        words: of ids (without `<eos>`), the tokens with spaces between them.
        text: of ids (without `<eos>`), the sentence as one would write it, such as by
            `data.text.detokenize`.
        inputs: as in training; only the first, the source, is read.
        batch_size: sentences decoded at a time.

    Raises `UserError` where an index is not one of `references`.
    """

    def statistics(ids: Int[Array, "B T"], batch: Batch) -> dict[str, Array]:
        return {"ids": ids, "index": batch["index"], "mask": batch["mask"]}

    def counted(rows: Totals) -> Totals:
        index = rows["index"][rows["mask"]]
        _check_index(index, references, split.name)
        outputs = truncate_at_eos(rows["ids"][rows["mask"]])
        wanted = [references[int(n)] for n in index]
        tokens = [" ".join(tokenize(line)) for line in wanted]
        return {
            "bleu": _counts("none", [words(ids) for ids in outputs], tokens),
            "sacrebleu": _counts("13a", [text(ids) for ids in outputs], wanted),
        }

    return Evaluation(
        Decoding(decode), split, inputs, statistics, bleu_figures, batch_size, counted
    )


def bleu_figures(totals: Totals) -> Figures:
    """Turn the totals of lengths, matches and n-grams into figures."""
    hypothesis, reference = totals["bleu"][:2]
    return {
        "bleu": _score(totals["bleu"]),
        "sacrebleu": _score(totals["sacrebleu"]),
        "length_ratio": float(hypothesis / reference),
    }


def _counts(tokenizer: str, hypotheses: list[str], references: list[str]) -> np.ndarray:
    """Two lengths, then matches and n-grams of the four orders: (10,)."""
    if not hypotheses:
        return np.zeros(2 + 2 * ORDERS, np.int64)
    score = _scorer(tokenizer).corpus_score(hypotheses, [references])
    return np.array([score.sys_len, score.ref_len, *score.counts, *score.totals], np.int64)


@functools.cache
def _scorer(tokenizer: str) -> Any:
    # Imported here: it takes time which a run without translations need not pay.
    from sacrebleu.metrics.bleu import BLEU

    # Forced: else it warns of hypotheses that look tokenised.
    return BLEU(tokenize=tokenizer, force=True)


def _score(counts: np.ndarray) -> float:
    from sacrebleu.metrics.bleu import BLEU

    hypothesis, reference, *rest = np.asarray(counts).tolist()
    matches, ngrams = rest[:ORDERS], rest[ORDERS:]
    result = BLEU.compute_bleu(matches, ngrams, hypothesis, reference, smooth_method="exp")
    return float(result.score)


def _check_index(index: np.ndarray, references: Sequence[str], name: str) -> None:
    wrong = index[(index < 0) | (index >= len(references))]
    if len(wrong):
        raise UserError(
            f"{name} has a sentence with the index {wrong[0]}, but there are {len(references)} "
            "references. Give the references of the same split, in the order of its texts."
        )
