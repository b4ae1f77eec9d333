"""One self-contained HTML page."""

import html
import os
import re
import tempfile
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

STYLE = Path(__file__).with_name("page.css")

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p>{subtitle}</p>
<nav>{links}</nav>
</header>
<main>
{sections}
</main>
</body>
</html>
"""


FILES = "report_files"
"""The folder beside the page with the files of its sections."""


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        title: plain text.
        html: put in as it is.
        files: what it shows and a page cannot hold, such as sound, by file name; `html` refers to
            them by `report_files/NAME`.
    """

    title: str
    html: str
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def anchor(self) -> str:
        """The part of the address that leads here."""
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


def write_page(
    path: str | os.PathLike[str], title: str, subtitle: str, sections: Sequence[Section]
) -> Path:
    """Write the page atomically, after the files of its sections.

    Raises `ValueError` for a file name with a path in it, and for one that two sections have.
    """
    path = Path(path)
    _write_files(path.parent / FILES, sections)
    text = PAGE.format(
        title=html.escape(title),
        subtitle=html.escape(subtitle),
        style=STYLE.read_text(encoding="utf-8"),
        links="".join(f'<a href="#{s.anchor}">{html.escape(s.title)}</a>\n' for s in sections),
        sections="\n".join(map(_section, sections)),
    )
    return _replace(path, text)


def sections(parts: Iterable[tuple[str, Callable[[], Sequence[Section]]]]) -> list[Section]:
    """The sections of all parts (title, function); one that fails becomes a section that says so.

    A page never costs a run its results.
    """
    return [section for title, make in parts for section in _sections_or_failure(title, make)]


def failed_section(title: str, error: BaseException) -> Section:
    """A section with the error of one that failed, and where it was raised."""
    frame = traceback.extract_tb(error.__traceback__)[-1:]
    place = "".join(f" ({Path(f.filename).name}, line {f.lineno})" for f in frame)
    message = html.escape(f"{type(error).__name__}: {error}")
    return Section(title, f'<p class="verdict bad">This section failed: {message}{place}</p>')


def _sections_or_failure(title: str, make: Callable[[], Sequence[Section]]) -> Sequence[Section]:
    try:
        return make()
    except Exception as error:
        return [failed_section(title, error)]


def _write_files(folder: Path, sections: Sequence[Section]) -> None:
    files = [(name, content) for section in sections for name, content in section.files.items()]
    names = [name for name, _ in files]
    for name in names:
        if Path(name).name != name or name in ("", ".", "..") or names.count(name) > 1:
            raise ValueError(
                f"a section's file is called {name!r}; expected a plain name, of one section only"
            )
    for name, content in files:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _section(section: Section) -> str:
    heading = f"<h2>{html.escape(section.title)}</h2>"
    return f'<section id="{section.anchor}">\n{heading}\n{section.html}\n</section>'


def _replace(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".page-") as folder:
        new = Path(folder) / path.name
        new.write_text(text, encoding="utf-8")
        os.replace(new, path)
    return path
