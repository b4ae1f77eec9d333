"""A small Transformer that translates the descriptions of Multi30k from German to English.

Vaswani et al., 2017, "Attention is all you need", in the setting of Trevett's tutorial
(bentrevett/pytorch-seq2seq, notebook 6): BLEU 36.52 in its tokens and perplexity 5.316 on
test_2016_flickr. Ours differs: 7,885 and 5,905 words where it has 7,853 and 5,893, a warm-up and
smoothed labels, and beams, whose length penalty of 1.5 was chosen on the validation split.
"""

import optax

from jaxmodels import generate, inspect, metrics, objectives
from jaxmodels.data import text
from jaxmodels.experiment import Experiment, Published, run
from jaxmodels.models import encoder_decoder


def transformer_multi30k(
    dataset: str = "multi30k",
    data_dir: str | None = None,
    steps: int = 2_260,
    batch_size: int = 128,
    peak_lr: float = 1e-3,
    dropout: float = 0.1,
    width: int = 256,
    depth: int = 3,
    label_smoothing: float = 0.1,
    beam_size: int = 4,
) -> Experiment:
    """Three blocks of width 256 on each side, trained with Adam.

    Args:
        dataset: multi30k; numbers needs no download.
        data_dir: folder of the texts; by default JAXMODELS_TEXT_DIR.
        steps: number of updates; 2,260 are 10 epochs.
        batch_size: pairs of sentences per update, of about equal length.
        peak_lr: learning rate after a warm-up of a tenth of the steps; it falls as a cosine.
        dropout: dropout rate of embeddings, sublayers and hidden features.
        width: of the model; a head has 32 features, a hidden layer twice the width.
        depth: blocks on each side.
        label_smoothing: weight of the uniform distribution in the targets.
        beam_size: of the search for a translation; 1 is greedy.
    """
    task = text.load_translation(dataset, data_dir)
    train, test = task.pairs["train"], task.pairs["test"]
    sizes = len(task.source), len(task.target), width, depth, width // 32, 2 * width
    options = {"dropout": dropout, "context": task.max_length + 1, "unroll": depth}
    model = encoder_decoder.transformer_multi30k(*sizes, **options)
    search = {"beam_size": beam_size, "alpha": 1.5}
    translate = generate.translator(model, task.max_length, **search)
    return Experiment(
        objective=objectives.seq2seq(model, label_smoothing),
        optimizer=optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.adam(optax.warmup_cosine_decay_schedule(0.0, peak_lr, steps // 10, steps)),
        ),
        train=text.bucket_by_length(train, batch_size, text.bucket_boundaries(train)),
        evaluate={
            "validation": metrics.seq2seq(model, task.pairs["validation"]),
            "test": metrics.seq2seq(model, test),
            "translation": metrics.bleu(translate, test, **task.bleu_arguments("test")),
        },
        steps=steps,
        published=Published({"translation/bleu": 36.52, "test/perplexity": 5.316}, "multi30k"),
        best="validation/perplexity",
        report=inspect.translations(
            model, task, **search, attention_fn=encoder_decoder.cross_attention
        ),
        files=task.vocabulary_files,
    )


if __name__ == "__main__":
    run(transformer_multi30k)
