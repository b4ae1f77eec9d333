"""A parallel corpus of number words, German to English, without a download."""

import functools
import re

from jaxmodels.data.shuffle import permutation

SIZE = 10_000


@functools.cache
def number_words() -> dict[str, tuple[list[str], list[str]]]:
    """`train` (9,000), `validation` (500), `test` (500): 1 to 10,000, German to English.

    "vier und dreißig" to "thirty-four": the word order changes, as in real translation. German
    numbers, which are written as one word, are split into their parts. The splits are fixed.
    """
    order = permutation(SIZE, 0, 0) + 1
    parts = {"train": order[:9000], "validation": order[9000:9500], "test": order[9500:]}
    return {
        split: ([german(n) for n in numbers], [english(n) for n in numbers])
        for split, numbers in ((split, part.tolist()) for split, part in parts.items())
    }


def german(number: int) -> str:
    """A number in German words, such as "ein tausend zwei hundert vier und dreißig"."""
    words = re.sub("(tausend|hundert|und)", r" \1 ", _words()(number, lang="de"))
    return " ".join(words.split())


def english(number: int) -> str:
    """A number in English words, such as "one thousand, two hundred and thirty-four"."""
    return _words()(number, lang="en")


def _words():
    # Imported here: most programs do not need it.
    from num2words import num2words

    return num2words
