"""A GRU with attention that translates the descriptions of Multi30k from German to English.

Bahdanau et al., 2015, "Neural machine translation by jointly learning to align and translate", in
the setting of Trevett's tutorial (bentrevett/pytorch-seq2seq, notebook 3, as evaluated with its
notebook 4): BLEU 28.11 in the tutorial's tokens and perplexity 23.18 on test_2016_flickr. Ours
differ: other rules of tokenizing, true words to the decoder in each training step, and a search
with beams.
"""

import optax

from jaxmodels import generate, inspect, metrics, objectives
from jaxmodels.data import text
from jaxmodels.experiment import Experiment, Published, run
from jaxmodels.models import rnn_encoder_decoder


def gru_multi30k(
    dataset: str = "multi30k",
    data_dir: str | None = None,
    steps: int = 2_260,
    batch_size: int = 128,
    peak_lr: float = 1e-3,
    dropout: float = 0.5,
    embedding: int = 256,
    features: int = 512,
    beam_size: int = 4,
) -> Experiment:
    """A bidirectional encoder and an attending decoder of one layer each, trained with Adam.

    Args:
        dataset: multi30k; numbers needs no download.
        data_dir: folder of the texts; by default JAXMODELS_TEXT_DIR.
        steps: number of updates; 2,260 are 10 epochs.
        batch_size: pairs of sentences per update, of about equal length.
        peak_lr: learning rate after a warm-up of a tenth of the steps; it falls as a cosine.
        dropout: dropout rate of the embeddings.
        embedding: width of the embeddings.
        features: width of the states.
        beam_size: of the search for a translation; 1 is greedy.
    """
    task = text.load_translation(dataset, data_dir)
    train, test = task.pairs["train"], task.pairs["test"]
    sizes = len(task.source), len(task.target), embedding, features
    model = rnn_encoder_decoder.bahdanau(*sizes, dropout)
    translate = generate.translator(model, task.max_length, beam_size)
    return Experiment(
        objective=objectives.seq2seq(model),
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
        published=Published({"translation/bleu": 28.11, "test/perplexity": 23.18}, "multi30k"),
        best="validation/perplexity",
        report=inspect.translations(
            model, task, beam_size=beam_size, attention_fn=rnn_encoder_decoder.cross_attention
        ),
        files=task.vocabulary_files,
    )


if __name__ == "__main__":
    run(gru_multi30k)
