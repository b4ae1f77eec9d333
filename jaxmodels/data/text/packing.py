"""Sequence packing: several documents in one row, with segment ids and little padding."""

from collections.abc import Sequence

import numpy as np

from jaxmodels.data.sources import ArraySource
from jaxmodels.data.split import Split
from jaxmodels.data.text.token_ids import check_token_ids, check_window_length
from jaxmodels.data.text.vocabulary import Ids
from jaxmodels.errors import UserError
from jaxmodels.special_tokens import PAD


def pack_documents(documents: Sequence[Ids], length: int, name: str = "documents") -> Split:
    """Pack documents into rows of `length` tokens; no document that fits in a row is split.

    Fields, all (B, T): `tokens`; `targets`, the next token of the same document; `segments`, 1, 2,
    ... for the documents of a row, 0 for padding; `valid`, False for padding. A document of more
    than `length + 1` tokens is split into pieces; each begins with the last token of the one
    before, so every token except a document's first is a target once.

    Best-fit decreasing: the longest first, each into the fullest row that has room; Krell et al.,
    2021, "Efficient sequence packing without cross-contamination". Rows are not in the order of the
    documents. Raises `UserError` for a document of fewer than 2 tokens.
    """
    check_window_length(length)
    if not len(documents):
        raise UserError(f"{name} has no documents to pack.")
    pieces = []
    for index, document in enumerate(documents):
        ids = check_token_ids(document, f"document {index} of {name}", 2)
        pieces.extend(ids[i : i + length + 1] for i in range(0, len(ids) - 1, length))
    return Split(ArraySource(name, _packed_fields(pieces, length)), functions=())


def _packed_fields(pieces: Sequence[np.ndarray], length: int) -> dict[str, np.ndarray]:
    rows = _rows([len(piece) - 1 for piece in pieces], length)
    tokens = np.full((len(rows), length), PAD, np.int32)
    targets, segments = tokens.copy(), np.zeros_like(tokens)
    for row, members in enumerate(rows):
        start = 0
        for segment, member in enumerate(members, start=1):
            piece = pieces[member]
            columns = slice(start, start + len(piece) - 1)
            tokens[row, columns], targets[row, columns] = piece[:-1], piece[1:]
            segments[row, columns] = segment
            start = columns.stop
    return {"tokens": tokens, "targets": targets, "segments": segments, "valid": segments > 0}


def _rows(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Best-fit decreasing bin packing: the indices of the pieces in each row."""
    rows: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(length + 1)]  # rows by remaining room
    mask = 0  # bit r is set if a row has room r: finds the fullest row without a search
    for piece in np.argsort(np.negative(sizes), kind="stable").tolist():
        size = sizes[piece]
        fits = mask >> size
        if fits:
            room = size + (fits & -fits).bit_length() - 1
            row = with_room[room].pop()
            mask ^= (not with_room[room]) << room
        else:
            row, room = len(rows), length
            rows.append([])
        rows[row].append(piece)
        if left := room - size:
            with_room[left].append(row)
            mask |= 1 << left
    return rows
