"""Vocabularies: there and back, saved and compared, and what is out of them."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from jaxmodels.data import text
from jaxmodels.errors import UserError

SENTENCES = [
    "Ein Mann, der nicht schläft: it's 3,000 m!",
    "two dogs  don't run\n\n",
    "你好 🙂 ok",
    "the the the dogs",
]
ALL = " ".join(SENTENCES)


def cut_at_commas(sentence):
    return sentence.split(",")


def vocabularies():
    return [
        text.character_vocabulary(*SENTENCES),
        text.byte_vocabulary(),
        text.word_vocabulary(SENTENCES),
        text.word_vocabulary(SENTENCES, 2, text.tokenize_words),
        text.word_vocabulary(ALL, special=()),
        text.subword_vocabulary(SENTENCES, 300),
    ]


KINDS = ["characters", "bytes", "words", "tokenized", "plain", "subwords"]
each = pytest.mark.parametrize("vocabulary", vocabularies(), ids=KINDS)


@each
class TestEach:
    def test_ids_are_below_its_length(self, vocabulary):
        ids = vocabulary.encode(ALL)
        assert ids.dtype == np.int32
        assert ids.ndim == 1
        assert 0 <= ids.min() <= ids.max() < len(vocabulary)
        assert len(vocabulary) == len(vocabulary.tokens) == len(set(vocabulary.tokens))
        assert vocabulary.encode("").shape == (0,)
        assert vocabulary.decode([]) == ""

    def test_comes_back_from_json(self, vocabulary):
        again = text.vocabulary_from_json(vocabulary.to_json())
        assert again == vocabulary
        assert again.to_json() == vocabulary.to_json()
        assert np.array_equal(again.encode(ALL), vocabulary.encode(ALL))
        text.check_same_vocabulary(vocabulary, again)

    def test_ids_beyond_it_are_refused(self, vocabulary):
        for wrong in ([0, len(vocabulary)], [-1]):
            with pytest.raises(UserError, match=f"0..{len(vocabulary) - 1}"):
                vocabulary.decode(wrong)
        with pytest.raises(UserError, match="integers on one axis"):
            vocabulary.decode(np.zeros((2, 2), int))

    def test_satisfies_the_protocol(self, vocabulary):
        assert isinstance(vocabulary, text.Vocabulary)

    def test_differs_from_every_other(self, vocabulary):
        others = [other for other in vocabularies() if other != vocabulary]
        assert len(others) == len(KINDS) - 1
        for other in others:
            with pytest.raises(UserError, match="not the one that the model was trained with"):
                text.check_same_vocabulary(vocabulary, other)


@pytest.mark.parametrize("make", [text.character_vocabulary, lambda *_: text.byte_vocabulary()])
def test_every_text_comes_back(make):
    vocabulary = make(*SENTENCES)
    for sentence in SENTENCES:
        assert vocabulary.decode(vocabulary.encode(sentence)) == sentence


def test_subwords_bring_back_texts_they_never_saw():
    vocabulary = text.subword_vocabulary(SENTENCES, 290)
    for sentence in (*SENTENCES, "Ωmega\t <eos> \x00", "  spaces  "):
        ids = vocabulary.encode(sentence)
        assert vocabulary.decode(ids) == sentence
        assert not np.isin(ids, range(4)).any()
    assert vocabulary.decode([text.BOS, text.EOS]) == "<bos><eos>"


def test_subwords_are_learnt_alike_every_time():
    corpus = [" ".join(text.load("stdlib")["validation"].split())]
    first, again = text.subword_vocabulary(corpus, 600), text.subword_vocabulary(corpus, 600)
    assert first == again
    assert len(first) == 600
    assert len(first.encode(corpus[0])) < 0.6 * len(corpus[0])


def foreign(path, special):
    """The file of a tokenizer with ids of its own, that frames, pads and cuts what it reads."""
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(["the dogs run", "the cats sit"] * 9, trainer)
    start = special[0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, 0)]
    )
    tokenizer.enable_padding(length=9)
    tokenizer.enable_truncation(6)
    tokenizer.save(str(path))
    return path


@pytest.mark.parametrize("special", [["[CLS]", "[UNK]"], ["<eos>", "[UNK]", "<pad>"]])
def test_subwords_of_a_tokenizer_made_elsewhere(special, tmp_path):
    vocabulary = text.subword_vocabulary_from_file(foreign(tmp_path / "tokenizer.json", special))
    assert vocabulary.tokens[:4] == text.SPECIAL_TOKENS
    assert len(set(vocabulary.tokens)) == len(vocabulary)
    sentence = "the dogs sit the cats run the dogs"
    ids = vocabulary.encode(sentence)
    assert [vocabulary.tokens[i] for i in ids] == sentence.split()
    assert vocabulary.decode([text.BOS, *ids[:2].tolist(), text.EOS]) == "<bos> the dogs <eos>"
    (batch,) = text.pairs([ids], [vocabulary.encode("the zoo")]).padded(1)
    assert batch["source"][0, 1:-1].tolist() == ids.tolist()
    again = text.vocabulary_from_json(vocabulary.to_json())
    assert again == vocabulary
    assert np.array_equal(again.encode(sentence), ids)


def test_a_tokenizer_that_cannot_be_used(tmp_path):
    path = foreign(tmp_path / "tokenizer.json", ["[UNK]"])
    rules = json.loads(path.read_text())
    rules["model"]["vocab"]["the"] += 100
    path.write_text(json.dumps(rules))
    with pytest.raises(UserError, match=r"have gaps; expected 0, 1, 2, \.\.\."):
        text.subword_vocabulary_from_file(path)
    path.write_text("no json")
    for wrong in (path, tmp_path / "none", tmp_path):
        with pytest.raises(UserError, match=f"{wrong} is not a tokenizer.json"):
            text.subword_vocabulary_from_file(wrong)


def test_words_are_ordered_by_count_then_alphabet():
    vocabulary = text.word_vocabulary(["b a c", "c b c", "d"], min_count=1)
    assert vocabulary.tokens == (*text.SPECIAL_TOKENS, "c", "b", "a", "d")
    assert text.word_vocabulary(["b a c", "c b c"], 2, special=()).tokens == ("c", "b")
    assert (text.PAD, text.UNK, text.BOS, text.EOS) == (0, 1, 2, 3)


def test_words_out_of_the_vocabulary():
    known = text.word_vocabulary("a b <unk> a", special=())
    assert known.tokens == ("a", "<unk>", "b")
    assert known.encode("b x a").tolist() == [2, 1, 0]
    assert known.encode(["b", "x"]).tolist() == [2, 1]
    assert text.word_vocabulary("a b").decode([4, 1, 3]) == "a <unk> <eos>"
    with pytest.raises(UserError, match=r"'x', number 1 \(from 0\).* has no <unk>"):
        text.word_vocabulary("a b", special=()).encode("b x a")


def test_characters_out_of_the_vocabulary():
    vocabulary = text.character_vocabulary("hello", "world")
    for character in "\n", "z", "🙂":
        with pytest.raises(UserError) as caught:
            vocabulary.encode(f"hell{character}o")
        assert f"{character!r} (U+{ord(character):04X}) at position 4" in str(caught.value)
        assert "character_vocabulary(*corpus.values())" in str(caught.value)


def test_vocabularies_need_a_text():
    for make in (
        lambda: text.character_vocabulary(""),
        lambda: text.word_vocabulary(""),
        lambda: text.word_vocabulary("a b", min_count=2),
        lambda: text.subword_vocabulary("", 300),
        lambda: text.subword_vocabulary([], 300),
    ):
        with pytest.raises(UserError, match=r"needs a text|from texts"):
            make()
    with pytest.raises(UserError, match="at least 260"):
        text.subword_vocabulary("a", 100)


def test_the_first_difference_is_named():
    one = text.word_vocabulary("a b c", special=())
    for other, said in [
        (text.word_vocabulary("a x c", special=()), "token 1 is 'b' there and 'c' here"),
        (text.word_vocabulary("a b c d", special=()), "3 tokens there and 4 here"),
        (
            text.word_vocabulary("a b c", 1, text.tokenize_words, ()),
            "split into them in another way",
        ),
        (text.byte_vocabulary(), "a WordVocabulary, this one a ByteVocabulary"),
    ]:
        with pytest.raises(UserError, match=said):
            text.check_same_vocabulary(one, other)


def test_json_that_is_no_vocabulary():
    for broken in ("", "{", "[]", "3", '{"kind": "runes"}', '{"kind": "words"}', "{}"):
        with pytest.raises(UserError, match="not a saved vocabulary"):
            text.vocabulary_from_json(broken)
    subwords = json.loads(text.subword_vocabulary("a", 260).to_json())
    subwords["rules"]["model"] = {}
    with pytest.raises(UserError, match="tokenizer cannot be read"):
        text.vocabulary_from_json(json.dumps(subwords))


def test_a_tokenizer_of_ones_own_must_be_given_again():
    vocabulary = text.word_vocabulary("a,b", tokenize=cut_at_commas)
    saved = vocabulary.to_json()
    with pytest.raises(UserError, match="tokenize=cut_at_commas"):
        text.vocabulary_from_json(saved)
    assert text.vocabulary_from_json(saved, cut_at_commas) == vocabulary


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("I don't, can't and won’t.", "i do n't , ca n't and wo n’t ."),
        ("It's the dogs' ball", "it 's the dogs ' ball"),
        ("a T-shirt", "a t - shirt"),
        ("Zwei Männer (weiß) gehen...", "zwei männer ( weiß ) gehen ..."),
        ('he says "no" at 12:30 for $3,000.50!', 'he says " no " at 12:30 for $ 3,000.50 !'),
        ("we'll they're I'm you'd", "we 'll they 're i 'm you 'd"),
        ("  \n", ""),
    ],
)
def test_tokenizer(sentence, words):
    assert text.tokenize_words(sentence) == words.split()


@pytest.mark.parametrize("kind", ["Bpe", "Unigram", "WordPiece", "WordLevel"])
def test_what_a_tokenizer_without_unknown_token_lacks_is_an_error(kind, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(getattr(models, kind.replace("Bpe", "BPE"))())
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = getattr(trainers, f"{kind}Trainer")(vocab_size=60, show_progress=False)
    tokenizer.train_from_iterator(["ab cd abc dab " * 50], trainer)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    vocabulary = text.subword_vocabulary_from_file(tmp_path / "tokenizer.json")
    assert vocabulary.decode(vocabulary.encode("ab cd")).replace(" ", "") == "abcd"
    with pytest.raises(UserError, match="cannot encode 'ab xyz': it has no token for some"):
        vocabulary.encode("ab xyz")
