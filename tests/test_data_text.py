"""Texts by name: the real ones where they are, the embedded stand-ins, and what is said without."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxmodels.data import text
from jaxmodels.data.text.corpora import PTB_FILES
from jaxmodels.data.text.number_words import english, german
from jaxmodels.data.text.parallel_corpora import MULTI30K_FILES
from jaxmodels.errors import UserError

plain = pytest.mark.skipif(
    "JAXMODELS_TEXT_DIR" not in os.environ,
    reason="JAXMODELS_TEXT_DIR does not name a folder with ptb/ and multi30k/",
)
with_tfds = pytest.mark.skipif(
    "TFDS_DATA_DIR" not in os.environ, reason="TFDS_DATA_DIR is not set: no prepared datasets"
)


@plain
def test_ptb_has_the_counts_of_the_literature():
    # Mikolov et al., 2011, "Empirical evaluation and combination of advanced language modeling
    # techniques", section 3: 930K, 74K, 82K tokens and 10K words.
    corpus = text.load("ptb")
    vocabulary = text.word_vocabulary(corpus["train"], special=())
    counts = {split: len(vocabulary.encode(corpus[split])) for split in corpus}
    assert counts == {"train": 929_589, "validation": 73_760, "test": 82_430}
    assert len(vocabulary) == 10_000
    assert {"<unk>", "<eos>", "N"} <= set(vocabulary.tokens)
    # Zaremba et al., 2014: 20 rows of 20 and of 35 steps.
    ids = vocabulary.encode(corpus["train"])
    assert text.stream(ids, 20, 20).steps_per_epoch == 2323
    assert text.stream(ids, 20, 35).steps_per_epoch == 1327


@plain
def test_multi30k_has_its_counts():
    corpus = text.load_parallel_corpus("multi30k")
    counts = {split: len(sources) for split, (sources, _) in corpus.items()}
    assert counts == {"train": 29_000, "validation": 1_014, "test": 1_000}
    sizes = [len(text.word_vocabulary(side, 2, text.tokenize_words)) for side in corpus["train"]]
    assert sizes == [7885, 5905]
    assert corpus["test"][1][0] == "A man in an orange hat starring at something."


@with_tfds
@pytest.mark.filterwarnings("default::DeprecationWarning:tensorflow_datasets")
def test_tiny_shakespeare_has_its_counts():
    corpus = text.load("tiny_shakespeare")
    assert {split: len(corpus[split]) for split in corpus} == {
        "train": 1_003_854,
        "validation": 55_770,
        "test": 55_770,
    }
    assert len(text.character_vocabulary(*corpus.values())) == 65
    assert corpus["train"].startswith("First Citizen:\nBefore we proceed")


def test_stdlib_is_split_by_modules():
    corpus = text.load("stdlib")
    sizes = {split: len(corpus[split]) for split in corpus}
    total = sum(sizes.values())
    assert list(sizes) == ["train", "validation", "test"]
    assert 500_000 < total <= 1_000_100
    assert 0.85 < sizes["train"] / total <= 0.9
    assert min(sizes.values()) > 0.01 * total
    assert "import" in corpus["train"]
    assert corpus == text.load("stdlib")


def test_numbers_are_split_for_good():
    corpus = text.load_parallel_corpus("numbers")
    counts = {split: len(sources) for split, (sources, _) in corpus.items()}
    assert counts == {"train": 9_000, "validation": 500, "test": 500}
    assert len({source for sources, _ in corpus.values() for source in sources}) == 10_000
    assert len({target for _, targets in corpus.values() for target in targets}) == 10_000
    # Pinned: should it ever change, runs could not be compared.
    assert corpus["test"][1][0] == "two thousand, eight hundred and five"
    assert german(1234) == "ein tausend zwei hundert vier und dreißig"
    assert english(1234) == "one thousand, two hundred and thirty-four"
    for side in (0, 1):
        vocabulary = text.word_vocabulary(corpus["train"][side], 2, text.tokenize_words)
        words = text.tokenize_words(" ".join(corpus["test"][side]))
        assert set(words) <= set(vocabulary.tokens)


class TestNotThere:
    @pytest.mark.parametrize(
        ("load", "name", "stand_in", "origin"),
        [
            (text.load, "ptb", "stdlib", "simple-examples.tgz"),
            (text.load_parallel_corpus, "multi30k", "numbers", "github.com/multi30k/dataset"),
        ],
    )
    def test_plain_files(self, load, name, stand_in, origin, tmp_path, monkeypatch):
        with pytest.raises(UserError) as caught:
            load(name, tmp_path)
        said = str(caught.value)
        for part in (str(tmp_path / name), origin, "JAXMODELS_TEXT_DIR", f"--dataset {stand_in}"):
            assert part in said
        monkeypatch.setenv("JAXMODELS_TEXT_DIR", str(tmp_path / "other"))
        with pytest.raises(UserError, match=r"neither .*other nor"):
            load(name)

    def test_a_missing_file_is_named(self, tmp_path):
        for file in ("ptb.train.txt", "ptb.valid.txt"):
            (tmp_path / file).write_text(" a b \n")
        with pytest.raises(UserError, match=r"lacks .*ptb\.test\.txt"):
            text.load("ptb", tmp_path)

    def test_without_a_folder_it_is_that_of_tfds(self, tmp_path, monkeypatch):
        monkeypatch.delenv("JAXMODELS_TEXT_DIR", raising=False)
        monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
        write(tmp_path / "ptb", dict.fromkeys(PTB_FILES.values(), " a \n b \n"))
        assert text.load("ptb")["test"] == " a  <eos>  b  <eos> "

    def test_tiny_shakespeare_names_both_ways(self, tmp_path):
        with pytest.raises(UserError) as caught:
            text.load("tiny_shakespeare", tmp_path)
        said = str(caught.value)
        assert f"scripts/prepare_data.py tiny_shakespeare --data-dir {tmp_path}" in said
        assert "--dataset stdlib" in said

    @pytest.mark.parametrize("load", [text.load, text.load_parallel_corpus])
    def test_unknown_names(self, load):
        with pytest.raises(UserError, match="There are: "):
            load("nothing-like-it")
        with pytest.raises(UserError, match="Did you mean ptb"):
            text.load("pbt")

    def test_the_script_says_where_plain_files_come_from(self):
        script = Path(__file__).parents[1] / "scripts" / "prepare_data.py"
        done = subprocess.run(
            [sys.executable, script, "ptb"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert "simple-examples.tgz" in done.stderr
        assert "Traceback" not in done.stderr


class TestOwnFiles:
    def test_a_file_is_split_at_line_ends(self, tmp_path):
        lines = [f"line {n}\n" for n in range(1000)]
        (tmp_path / "mine.txt").write_text("".join(lines))
        corpus = text.load(str(tmp_path / "mine.txt"))
        assert "".join(corpus.values()) == "".join(lines)
        assert all(part.endswith("\n") for part in corpus.values())
        shares = [len(part) / len("".join(lines)) for part in corpus.values()]
        assert shares == pytest.approx([0.9, 0.05, 0.05], abs=0.002)

    def test_a_file_of_one_line(self, tmp_path):
        (tmp_path / "mine.txt").write_text("x" * 100)
        assert [len(part) for part in text.load(tmp_path / "mine.txt").values()] == [90, 5, 5]

    def test_a_folder(self, tmp_path):
        write(tmp_path, {"train.txt": "a b", "validation.txt": "a", "test.txt": "b"})
        assert dict(text.load(tmp_path)) == {"train": "a b", "validation": "a", "test": "b"}
        (tmp_path / "test.txt").unlink()
        with pytest.raises(UserError, match=r"test\.txt cannot be read: No such file"):
            text.load(tmp_path)

    def test_one_word_is_one_word_whoever_wrote_it(self, tmp_path):
        """A byte-order mark, line ends of Windows, decomposed umlauts."""
        plain, other = tmp_path / "plain.txt", tmp_path / "other.txt"
        plain.write_bytes("Grüße an alle\nüber\n".encode() * 20)
        decomposed = "Gru\u0308ße an alle\r\nu\u0308ber\r\n".encode()
        other.write_bytes(b"\xef\xbb\xbf" + decomposed * 20)
        assert dict(text.load(plain)) == dict(text.load(other))

    def test_neither_a_name_nor_a_path(self):
        with pytest.raises(UserError, match="Nor is it the path of a text file or a folder"):
            text.load("mine.txt")


class TestBadFiles:
    def test_empty(self, tmp_path):
        write(tmp_path, dict.fromkeys(PTB_FILES.values(), "\n"))
        with pytest.raises(UserError, match=r"ptb\.train\.txt is empty"):
            text.load("ptb", tmp_path)

    def test_no_utf8(self, tmp_path):
        write(tmp_path, dict.fromkeys(PTB_FILES.values(), "a"))
        (tmp_path / "ptb.train.txt").write_bytes(b"caf\xe9 ")
        with pytest.raises(UserError, match="not UTF-8: byte 3"):
            text.load("ptb", tmp_path)

    def test_unequal_numbers_of_sentences(self, tmp_path):
        write(tmp_path, multi30k())
        assert text.load_parallel_corpus("multi30k", tmp_path)["test"] == (["a", "b"], ["a", "b"])
        (tmp_path / "val.en").write_text("a\n")
        with pytest.raises(UserError, match="multi30k/validation has 2 sources and 1 targets"):
            text.load_parallel_corpus("multi30k", tmp_path)

    def test_an_empty_sentence(self, tmp_path):
        write(tmp_path, multi30k() | {"train.en": "a\n \n"})
        with pytest.raises(UserError, match="target of pair 1 of multi30k/train is empty"):
            text.load_parallel_corpus("multi30k", tmp_path)

    def test_values_of_ones_own(self):
        with pytest.raises(UserError, match="'test' of mine is an empty text"):
            text.Corpus("mine", {"train": "a", "test": ""})
        with pytest.raises(UserError, match="mine has no split 'dev'; it has: train"):
            text.Corpus("mine", {"train": "a"})["dev"]
        with pytest.raises(UserError, match="0 sources"):
            text.ParallelCorpus("mine", {"train": ([], [])})


def multi30k():
    return {f"{file}.{side}": "a\nb\n" for file in MULTI30K_FILES.values() for side in ("de", "en")}


def write(folder, files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(content)


def test_a_start_needs_neither_library():
    code = "import sys; from jaxmodels.data import text; text.load('stdlib')\n"
    code += "text.word_vocabulary('a b')\n"
    code += "print({'tokenizers', 'num2words', 'tensorflow_datasets'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
