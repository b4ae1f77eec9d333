"""Texts, vocabularies and batches of tokens; as all data, batch n is a function of (seed, n).

    corpus = text.load("tiny_shakespeare")
    vocabulary = text.characters(*corpus.values())
    ids = {split: vocabulary.encode(corpus[split]) for split in corpus}
    train = text.windows(ids["train"], 256, vocab_size=len(vocabulary)).batches(64)
    test = text.blocks(ids["test"], 256)             # every token once

`stream` and `consecutive` read a text in its order, for models whose state goes on; `pairs` and
`bucketed` are for translation; `packed` puts short documents into long rows. Sub-words are learnt
by `subwords`, or read by `subwords_from_file` as others have learnt them.
"""

from jaxmodels.data.text.bucketed import Bucketed, bucketed
from jaxmodels.data.text.characters import Bytes, Characters, byte_vocabulary, characters
from jaxmodels.data.text.corpora import Corpus, load
from jaxmodels.data.text.packed import packed
from jaxmodels.data.text.pairs import at_most, lengths, pairs
from jaxmodels.data.text.parallel import ParallelCorpus, load_pairs
from jaxmodels.data.text.stream import Consecutive, Stream, consecutive, stream
from jaxmodels.data.text.subwords import Subwords, subwords, subwords_from_file
from jaxmodels.data.text.tokenize import detokenize, tokenize_words
from jaxmodels.data.text.translation import Translation, boundaries, in_subwords, translation
from jaxmodels.data.text.vocabulary import SPECIAL, Vocabulary, check_same, difference
from jaxmodels.data.text.vocabulary_json import vocabulary_from_json
from jaxmodels.data.text.windows import blocks, windows
from jaxmodels.data.text.words import Words, words
from jaxmodels.special_tokens import BOS, EOS, PAD, UNK

__all__ = [
    "BOS",
    "EOS",
    "PAD",
    "SPECIAL",
    "UNK",
    "Bucketed",
    "Bytes",
    "Characters",
    "Consecutive",
    "Corpus",
    "ParallelCorpus",
    "Stream",
    "Subwords",
    "Translation",
    "Vocabulary",
    "Words",
    "at_most",
    "blocks",
    "boundaries",
    "bucketed",
    "byte_vocabulary",
    "characters",
    "check_same",
    "consecutive",
    "detokenize",
    "difference",
    "in_subwords",
    "lengths",
    "load",
    "load_pairs",
    "packed",
    "pairs",
    "stream",
    "subwords",
    "subwords_from_file",
    "tokenize_words",
    "translation",
    "vocabulary_from_json",
    "windows",
    "words",
]
