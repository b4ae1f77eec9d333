"""Objectives of sequences of tokens: cross-entropies in nats, means over all tokens that count."""

from jaxtyping import Bool, Float

from jaxmodels.adapters.method import Method
from jaxmodels.adapters.state import Carried
from jaxmodels.errors import UserError
from jaxmodels.inputs import carried_inputs, pair_inputs, scored_inputs, token_inputs, valid_targets
from jaxmodels.losses import cross_entropy
from jaxmodels.objectives.objective import Objective
from jaxmodels.special_tokens import PAD
from jaxmodels.typing import Array, Batch, Model, Scalars


def next_token(model: Model) -> Objective:
    """Cross-entropy of `targets` (B, T), of which `valid` (B, T) count, given `tokens` (B, T).

    The model's outputs are logits (B, T, V). Rows of packed documents have `segments` (B, T),
    which the model is given too.
    """
    return Objective(model, token_inputs, _next_token_score, valid=valid_targets)


def truncated(model: Model) -> Objective:
    """`next_token` of consecutive batches, the model's carry going from one to the next.

    Back-propagation ends at a batch's first token; rows begin anew where `first` (B,) is true.
    """
    return Objective(Carried(model), carried_inputs, _next_token_score, valid=valid_targets)


def next_token_in_chunks(model: Model) -> Objective:
    """`next_token` of a model with a method `token_losses(tokens, targets)`.

    Its logits never stand in memory together, which a large vocabulary asks for.
    """

    def score(losses: Float[Array, "B T"], batch: Batch) -> tuple[Array, Scalars]:
        del batch
        return losses, {}

    return Objective(Method(model, "token_losses"), scored_inputs, score, valid=valid_targets)


def seq2seq(model: Model, label_smoothing: float = 0.0) -> Objective:
    """Cross-entropy of each token of `target` (B, T + 1) but the first, given what came before.

    And given `source` (B, S). Padding does not count. With smoothing, the scalar `cross_entropy`
    is that without.
    """
    if not 0 <= label_smoothing < 1:
        raise UserError(f"The smoothing of labels must be in [0, 1), got {label_smoothing}.")

    def score(logits: Float[Array, "B T V"], batch: Batch) -> tuple[Array, Scalars]:
        targets = batch["target"][:, 1:]
        plain = cross_entropy(logits, targets)
        if not label_smoothing:
            return plain, {}
        return cross_entropy(logits, targets, label_smoothing), {"cross_entropy": plain}

    return Objective(model, pair_inputs, score, valid=_no_padding)


def _no_padding(batch: Batch) -> Bool[Array, "B T"]:
    return batch["target"][:, 1:] != PAD


def _next_token_score(logits: Float[Array, "B T V"], batch: Batch) -> tuple[Array, Scalars]:
    return cross_entropy(logits, batch["targets"]), {}
