"""A progress bar on a terminal, or one line in a log."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def track(pieces: Iterable[tuple[int, T]], total: int, title: str) -> Iterator[T]:
    """Yield the values of (count, value) pairs, and show progress towards `total` examples."""
    # Imported here: most runs show no bar of this kind.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        console.print(f"{title}, {total:,} examples", highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    bar = Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal
    )
    with bar:
        task = bar.add_task(title, total=total)
        for size, piece in pieces:
            yield piece
            bar.advance(task, size)
