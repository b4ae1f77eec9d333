"""Objectives of sequences of tokens: cross-entropies in nats, means over the tokens that count."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from jaxtyping import Float

from jaxmodels.adapters import Stateful, with_arguments
from jaxmodels.losses import check_label_smoothing, cross_entropy
from jaxmodels.objectives.objective import Objective
from jaxmodels.special_tokens import split_target
from jaxmodels.terms import Term
from jaxmodels.typing import Array, Batch, Model, batch_field, batch_fields, field_names


def token_classification(
    model: Model,
    inputs: str | Sequence[str] = ("tokens",),
    target: str = "targets",
    valid: str = "valid?",
    label_smoothing: float = 0.0,
) -> Objective:
    """Cross-entropy of a class for each token: logits (B, T, K), classes (B, T).

    Args:
        model: computes logits from the fields `inputs`.
        inputs: names of batch fields.
        target: the field of classes.
        valid: the field (B, T) of which tokens count, or of their weights; "valid?" may be absent.
        label_smoothing: see `losses.cross_entropy`; the term `cross_entropy` is without it.
    """
    check_label_smoothing(label_smoothing)

    def score(logits: Float[Array, "B T K"], batch: Batch) -> Mapping[str, Term]:
        targets, weights = batch_field(batch, target), _weights(batch, valid)
        plain = Term(cross_entropy(logits, targets), weights)
        if not label_smoothing:
            return {"cross_entropy": plain}
        smooth = Term(cross_entropy(logits, targets, label_smoothing), weights)
        return {"smoothed": smooth, "cross_entropy": plain._replace(coefficient=0.0)}

    return Objective(model, field_names(inputs), score)


def next_token(model: Model) -> Objective:
    """Language modelling: `token_classification` of the token that follows each of `tokens`.

    Fields `tokens`, `targets` (B, T), `valid` where not all count, and `segments` where rows hold
    several documents, which the model is given too.
    """
    return token_classification(model, ("tokens", "segments?"))


def truncated(model: Model) -> Objective:
    """`next_token` of consecutive batches, a recurrent state going from one to the next.

    Truncated back-propagation through time: it ends at a batch's first token; rows start from zero
    where `first` (B,) is true. Only for models with recurrent state; see `adapters.Stateful`.
    """
    return token_classification(Stateful(model), ("tokens", "first"))


def next_token_in_chunks(model: Model) -> Objective:
    """`next_token` of a model with a method `token_losses(tokens, targets)`, as `CausalLM` has.

    Its logits never stand in memory together, which a large vocabulary asks for.
    """

    def score(losses: Float[Array, "B T"], batch: Batch) -> Mapping[str, Term]:
        return {"cross_entropy": Term(losses, _weights(batch, "valid?"))}

    fields = "tokens", "targets", "segments?"
    return Objective(with_arguments(model, method="token_losses"), fields, score)


def seq2seq(model: Model, label_smoothing: float = 0.0) -> Objective:
    """Translation with teacher forcing: each token of `target` but the first, given those before.

    Fields `source` (B, S) and `target` (B, T + 1); padding does not count.
    """
    objective = token_classification(
        model, ("source", "decoder_tokens"), "targets", "valid", label_smoothing
    )
    return dataclasses.replace(objective, prepare=lambda key, batch: split_target(batch))


def _weights(batch: Batch, valid: str) -> Array | None:
    found = batch_fields(batch, (valid,))
    return jnp.asarray(found[0]) if found else None
