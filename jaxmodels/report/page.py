"""One self-contained HTML page."""

import html
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Section:
    """A part of the page; `title` is plain text, `html` is put in as it is."""

    title: str
    html: str

    @property
    def anchor(self) -> str:
        """The part of the address that leads here."""
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


def write_page(
    path: str | os.PathLike[str], title: str, subtitle: str, sections: Sequence[Section]
) -> Path:
    """Write the page in one stroke: a reader never sees half of it."""
    text = PAGE.format(
        title=html.escape(title),
        subtitle=html.escape(subtitle),
        style=STYLE.read_text(encoding="utf-8"),
        links="".join(f'<a href="#{s.anchor}">{html.escape(s.title)}</a>\n' for s in sections),
        sections="\n".join(map(_section, sections)),
    )
    return _replace(Path(path), text)


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
