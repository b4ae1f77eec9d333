"""Documents of many lengths in rows of one length, with little padding."""

from collections.abc import Sequence

import numpy as np

from jaxmodels.data.sources import ArraySource
from jaxmodels.data.split import Split
from jaxmodels.data.text.token_ids import check_token_ids, check_window_length
from jaxmodels.data.text.vocabulary import Ids
from jaxmodels.errors import UserError
from jaxmodels.special_tokens import PAD


def pack_documents(documents: Sequence[Ids], length: int, name: str = "documents") -> Split:
    """Rows of `length` tokens, each holding as many documents as fit, none of them cut in two.

    Fields, all (B, T): `tokens`; `targets`, the next token of the same document; `segments`, 1, 2,
    ... for a row's documents, 0 for padding; `valid`, False for padding. A document's last token is
    only a target. One of more than `length + 1` tokens comes in pieces, of which each begins with
    the last token of the one before, so every token but a document's first is a target once.

    The longest first, each goes into the fullest row that has room: Krell et al., 2021, "Efficient
    sequence packing without cross-contamination". Rows so made are not in the documents' order.
    Raises `UserError` for a document of fewer than 2 tokens.
    """
    check_window_length(length)
    if not len(documents):
        raise UserError(f"{name} has no documents to pack.")
    pieces = []
    for index, document in enumerate(documents):
        ids = check_token_ids(document, f"document {index} of {name}", 2)
        pieces.extend(ids[at : at + length + 1] for at in range(0, len(ids) - 1, length))
    return Split(ArraySource(name, _filled(pieces, length)), functions=())


def _filled(pieces: Sequence[np.ndarray], length: int) -> dict[str, np.ndarray]:
    rows = _rows([len(piece) - 1 for piece in pieces], length)
    tokens = np.full((len(rows), length), PAD, np.int32)
    targets, segments = tokens.copy(), np.zeros_like(tokens)
    for row, members in enumerate(rows):
        at = 0
        for segment, member in enumerate(members, start=1):
            piece = pieces[member]
            place = slice(at, at + len(piece) - 1)
            tokens[row, place], targets[row, place] = piece[:-1], piece[1:]
            segments[row, place] = segment
            at = place.stop
    return {"tokens": tokens, "targets": targets, "segments": segments, "valid": segments > 0}


def _rows(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Which pieces stand in which row: best fit, by decreasing size."""
    rows: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(length + 1)]  # rows, by the places left
    mask = 0  # bit r: some row has r places left; finds the fullest without a search
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
