"""A small GPT that writes Shakespeare, character by character.

Karpathy's nanoGPT, config/train_shakespeare_char.py in the README's setting for a CPU: 4 layers of
width 128, context 64, batch 12, 2,000 steps reach a loss of 1.88 nats per character on 20 random
batches of the validation text. The loss on the whole validation text is reported too.
"""

import optax

from jaxmodels import inspect, metrics, objectives, tree
from jaxmodels.data import text
from jaxmodels.experiment import Experiment, Published, run
from jaxmodels.models.causal_lm import gpt2


def gpt_shakespeare(
    dataset: str = "tiny_shakespeare",
    data_dir: str | None = None,
    steps: int = 2_000,
    batch_size: int = 12,
    peak_lr: float = 1e-3,
    weight_decay: float = 0.1,
    dropout: float = 0.0,
    context: int = 64,
    width: int = 128,
    depth: int = 4,
    num_heads: int = 4,
) -> Experiment:
    """The GPT, trained with AdamW on a cosine schedule that ends at a tenth of its peak.

    Args:
        dataset: tiny_shakespeare; stdlib needs no download; or the path of a text file.
        data_dir: folder of prepared data sets; by default TFDS_DATA_DIR.
        steps: number of updates.
        batch_size: windows of text per update.
        peak_lr: learning rate after a warm-up of a twentieth of the steps.
        weight_decay: decoupled weight decay; not of biases and norms.
        dropout: dropout rate of embeddings and of what each sublayer returns.
        context: characters that the model looks back on.
        width: of the model.
        depth: blocks.
        num_heads: of the attention.
    """
    corpus = text.load(dataset, data_dir)
    vocabulary = text.character_vocabulary(*corpus.values())
    ids = {split: vocabulary.encode(corpus[split]) for split in corpus}
    sizes = len(vocabulary), context, width, depth, num_heads, dropout
    model = gpt2(*sizes, use_bias=False, unroll=depth)
    schedule = optax.warmup_cosine_decay_schedule(0, peak_lr, steps // 20, steps, peak_lr / 10)
    whole = text.disjoint_windows(ids["validation"], context, f"{dataset}/validation")
    some = text.windows(ids["validation"], context, f"{dataset}/validation").sample(20 * batch_size)
    return Experiment(
        objective=objectives.next_token(model),
        optimizer=optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.adamw(schedule, b2=0.99, weight_decay=weight_decay, mask=tree.decay_mask),
        ),
        train=text.windows(ids["train"], context, f"{dataset}/train").batches(batch_size),
        evaluate={
            "sampled": metrics.next_token(model, some, "character"),
            "validation": metrics.next_token(model, whole, "character"),
        },
        steps=steps,
        published=Published({"sampled/cross_entropy": 1.88}, "tiny_shakespeare"),
        report=inspect.text_samples(model, ids["validation"][:1], vocabulary.decode),
        files={"vocabulary.json": vocabulary.to_json()},
    )


if __name__ == "__main__":
    run(gpt_shakespeare)
