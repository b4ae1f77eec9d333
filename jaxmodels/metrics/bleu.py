"""BLEU of translations, by sacreBLEU."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxmodels.adapters import FunctionModel
from jaxmodels.errors import UserError
from jaxmodels.metric import Metric
from jaxmodels.metrics.evaluation import Evaluation, Metrics, Totals
from jaxmodels.metrics.reductions import Rows
from jaxmodels.special_tokens import truncate_at_eos
from jaxmodels.typing import Array, Batch, field_names

TYPES = {
    "bleu": Metric("", higher_is_better=True),
    "sacrebleu": Metric("", higher_is_better=True),
    "length_ratio": Metric(""),
}


def bleu(
    decode: Callable[[Any, Array], Array],
    split: Any,
    references: Sequence[str],
    tokenize: Callable[[str], list[str]],
    words: Callable[[list[int]], str],
    text: Callable[[list[int]], str],
    inputs: str | Sequence[str] = ("source",),
    batch_size: int = 100,
) -> Evaluation:
    """Evaluate translations: BLEU of a corpus in 0..100, higher is better.

    Papineni et al., 2002, "BLEU: a method for automatic evaluation of machine translation", by
    sacreBLEU (Post, 2018), whose smoothing matters only where an order has no match at all.

    Metrics: `bleu`, of our own tokens, `words(ids)` against `tokenize(reference)`; `sacrebleu`, of
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
        inputs: names of the batch fields that `decode` reads.
        batch_size: sentences decoded at a time.

    Raises `UserError` where an index is not one of `references`.
    """

    def statistics(ids: Int[Array, "B T"], batch: Batch) -> dict[str, Array]:
        return {"ids": ids, "index": batch["index"]}

    def summary(rows: Totals) -> Metrics:
        _check_index(rows["index"], references, split.name)
        outputs = truncate_at_eos(rows["ids"])
        return _bleu_metrics(
            ([words(ids) for ids in outputs], [text(ids) for ids in outputs]),
            [references[int(n)] for n in rows["index"]],
            tokenize,
        )

    decoder = FunctionModel(decode)
    return Evaluation(
        decoder,
        split,
        field_names(inputs),
        statistics,
        summary,
        TYPES,
        Rows(),
        batch_size=batch_size,
    )


def _bleu_metrics(
    outputs: tuple[list[str], list[str]],
    references: list[str],
    tokenize: Callable[[str], list[str]],
) -> Metrics:
    """Scores of outputs in tokens, and as one would write them."""
    in_tokens, as_written = outputs
    ours = _corpus_score("none", in_tokens, [" ".join(tokenize(line)) for line in references])
    return {
        "bleu": float(ours.score),
        "sacrebleu": float(_corpus_score("13a", as_written, references).score),
        "length_ratio": float(ours.sys_len / ours.ref_len),
    }


def _corpus_score(tokenizer: str, hypotheses: list[str], references: list[str]) -> Any:
    return _scorer(tokenizer).corpus_score(hypotheses, [references])


@functools.cache
def _scorer(tokenizer: str) -> Any:
    # Imported here: it takes time which a run without translations need not pay.
    from sacrebleu.metrics.bleu import BLEU

    # Forced: else it warns of hypotheses that look tokenised.
    return BLEU(tokenize=tokenizer, force=True)


def _check_index(index: np.ndarray, references: Sequence[str], name: str) -> None:
    wrong = index[(index < 0) | (index >= len(references))]
    if len(wrong):
        raise UserError(
            f"{name} has a sentence with the index {wrong[0]}, but there are {len(references)} "
            "references. Give the references of the same split, in the order of its texts."
        )
