"""Text for language models and translation: corpora, vocabularies, batches of tokens.

    corpus = text.load("tiny_shakespeare")
    vocabulary = text.character_vocabulary(*corpus.values())
    ids = {split: vocabulary.encode(corpus[split]) for split in corpus}
    train = text.windows(ids["train"], 256, vocab_size=len(vocabulary)).batches(64)
    test = text.disjoint_windows(ids["test"], 256)  # every token once

As for all data, batch n is a function of (seed, n).

- Language models: `windows` and `disjoint_windows` (every window starts from nothing), `stream` and
  `evaluation_stream` (truncated back-propagation: the state goes on), `pack_documents`.
- Translation: `pairs`, `bucket_by_length`; `load_translation` does all at once.
- Vocabularies: characters, bytes, words, and sub-words (BPE), which are learnt by
  `subword_vocabulary` or read from a Hugging Face `tokenizer.json`.
"""

from jaxmodels.data.text.bucketing import BucketedBatches, bucket_by_length
from jaxmodels.data.text.characters import (
    ByteVocabulary,
    CharacterVocabulary,
    byte_vocabulary,
    character_vocabulary,
)
from jaxmodels.data.text.corpora import Corpus, load
from jaxmodels.data.text.packing import pack_documents
from jaxmodels.data.text.pairs import filter_by_length, pair_lengths, pairs
from jaxmodels.data.text.parallel_corpora import ParallelCorpus, load_parallel_corpus
from jaxmodels.data.text.stream import EvaluationStream, Stream, evaluation_stream, stream
from jaxmodels.data.text.subwords import (
    SubwordVocabulary,
    subword_vocabulary,
    subword_vocabulary_from_file,
)
from jaxmodels.data.text.tokenize import detokenize, tokenize_words
from jaxmodels.data.text.translation_dataset import (
    TranslationDataset,
    bucket_boundaries,
    load_translation,
    subword_translation,
)
from jaxmodels.data.text.vocabulary import (
    SPECIAL_TOKENS,
    Vocabulary,
    check_same_vocabulary,
    vocabulary_difference,
)
from jaxmodels.data.text.vocabulary_json import vocabulary_from_json
from jaxmodels.data.text.windows import disjoint_windows, windows
from jaxmodels.data.text.words import WordVocabulary, word_vocabulary
from jaxmodels.special_tokens import BOS, EOS, PAD, UNK

__all__ = [
    "BOS",
    "EOS",
    "PAD",
    "SPECIAL_TOKENS",
    "UNK",
    "BucketedBatches",
    "ByteVocabulary",
    "CharacterVocabulary",
    "Corpus",
    "EvaluationStream",
    "ParallelCorpus",
    "Stream",
    "SubwordVocabulary",
    "TranslationDataset",
    "Vocabulary",
    "WordVocabulary",
    "bucket_boundaries",
    "bucket_by_length",
    "byte_vocabulary",
    "character_vocabulary",
    "check_same_vocabulary",
    "detokenize",
    "disjoint_windows",
    "evaluation_stream",
    "filter_by_length",
    "load",
    "load_parallel_corpus",
    "load_translation",
    "pack_documents",
    "pair_lengths",
    "pairs",
    "stream",
    "subword_translation",
    "subword_vocabulary",
    "subword_vocabulary_from_file",
    "tokenize_words",
    "vocabulary_difference",
    "vocabulary_from_json",
    "windows",
    "word_vocabulary",
]
