"""The source code of Python's standard library as a text corpus, without a download."""

import sys
import sysconfig
from pathlib import Path

from jaxmodels.errors import UserError

MAX_BYTES = 1_000_000
MAX_MODULE_BYTES = 40_000
"""With larger modules the small splits would be one module, or none."""


def stdlib() -> dict[str, str]:
    """`train`, `validation`, `test`: 90, 5 and 5 % of about 1 MB of the standard library.

    Top-level modules in plain ASCII, in alphabetical order; no module is in two splits. The text
    depends on the version of Python.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    parts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    modules = _modules(folder)
    total, read = sum(map(len, modules)), 0
    for module in modules:
        read += len(module)
        share = read / total
        parts["train" if share <= 0.9 else "validation" if share <= 0.95 else "test"].append(module)
    if not all(parts.values()):
        raise UserError(
            f"The corpus stdlib is made of the sources of Python's standard library; {folder} has "
            f"only {len(modules)} modules. Use a Python that comes with its sources."
        )
    return {split: "\n".join(texts) for split, texts in parts.items()}


def _modules(folder: Path) -> list[str]:
    # Names with an underscore are generated for the machine, and hold its paths.
    names = sorted(name for name in sys.stdlib_module_names if not name.startswith("_"))
    paths = [path for name in names if (path := folder / f"{name}.py").is_file()]
    texts: list[str] = []
    for path in paths:
        source = path.read_bytes()
        if sum(map(len, texts)) + len(source) > MAX_BYTES:
            break
        if source.isascii() and 0 < len(source) <= MAX_MODULE_BYTES:
            texts.append(source.decode())
    return texts
