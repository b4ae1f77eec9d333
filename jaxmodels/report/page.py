"""The HTML page of a run: sections, and the files beside it that they refer to."""

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
FILE_NAME = re.compile(r"\w[\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        title: plain text.
        html: put in as it is.
        files: contents by file name, of what does not belong into a page, such as sound. They are
            written beside it; `html` refers to them by `report_files/NAME`.

    Raises `ValueError` for a file name with anything but letters, digits, "_", "-" and ".", or one
    that begins with "-" or ".".
    """

    title: str
    html: str
    files: Mapping[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.files:
            if not FILE_NAME.fullmatch(name):
                raise ValueError(
                    f"the section {self.title!r} has a file named {name!r}; expected only letters, "
                    'digits, "_", "-" and ".", and one of the first three at the beginning'
                )

    @property
    def anchor(self) -> str:
        """The id of its element, for links to it."""
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


def write_page(
    path: str | os.PathLike[str], title: str, subtitle: str, sections: Sequence[Section]
) -> Path:
    """Write the page, after the files of its sections, each of them atomically.

    A section with a file that an earlier section has too is replaced by one that says so.
    """
    path, sections = Path(path), _without_collisions(sections)
    for section in sections:
        for name, content in section.files.items():
            _replace(path.parent / FILES / name, content)
    text = PAGE.format(
        title=html.escape(title),
        subtitle=html.escape(subtitle),
        style=STYLE.read_text(encoding="utf-8"),
        links="".join(f'<a href="#{s.anchor}">{html.escape(s.title)}</a>\n' for s in sections),
        sections="\n".join(map(_element, sections)),
    )
    return _replace(path, text.encode())


def sections(parts: Iterable[tuple[str, Callable[[], Iterable[Section]]]]) -> list[Section]:
    """The sections of all parts, each a title and a function; a part that fails is shown as such.

    Any `Exception` is caught: a page never costs a run its results.
    """
    return [section for title, make in parts for section in _sections_or_failure(title, make)]


def failed_section(title: str, error: BaseException) -> Section:
    """A section with the error of one that failed, and the line that raised it."""
    message = html.escape(f"{type(error).__name__}: {error}")
    text = f'<p class="verdict bad">This section failed: {message}</p>'
    for frame in traceback.extract_tb(error.__traceback__)[-1:]:
        place = html.escape(f"{Path(frame.filename).name}, line {frame.lineno}: {frame.line}")
        text += f'<p class="note"><code>{place}</code></p>'
    return Section(title, text)


def _sections_or_failure(title: str, make: Callable[[], Iterable[Section]]) -> list[Section]:
    try:
        made = list(make())
        if wrong := [part for part in made if not isinstance(part, Section)]:
            raise TypeError(f"expected sections, got {type(wrong[0]).__name__}")
        return made
    except Exception as error:
        return [failed_section(title, error)]


def _without_collisions(sections: Iterable[Section]) -> list[Section]:
    used: set[str] = set()
    checked = []
    for section in sections:
        # Names that differ only in case are one file on some systems.
        names = [name.casefold() for name in section.files]
        twice = sorted(used & {*names} | {name for name in names if names.count(name) > 1})
        if twice:
            error = ValueError(f"the page has several files named {', '.join(twice)}")
            section = failed_section(section.title, error)
        else:
            used |= {*names}
        checked.append(section)
    return checked


def _element(section: Section) -> str:
    heading = f"<h2>{html.escape(section.title)}</h2>"
    return f'<section id="{section.anchor}">\n{heading}\n{section.html}\n</section>'


def _replace(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".page-") as folder:
        new = Path(folder) / path.name
        new.write_bytes(content)
        os.replace(new, path)
    return path
