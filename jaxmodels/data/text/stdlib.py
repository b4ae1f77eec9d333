"""Python's own standard library as a text: what every machine has without a download."""

import sys
import sysconfig
from pathlib import Path

from jaxmodels.errors import UserError

LIMIT = 1_000_000
"""Bytes in all."""
LARGEST = 40_000
"""Bytes of a module; with larger ones the small splits would be one module, or none."""


def stdlib() -> dict[str, str]:
    """`train`, `validation`, `test`: 90, 5 and 5 % of about 1 MB of the interpreter's modules.

    Of the modules beside the packages those in plain ASCII, in alphabetical order. No module
    stands in two splits. Another version of Python gives another text.
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
            f"The stand-in stdlib is made of the sources of Python's standard library; in {folder} "
            f"there are {len(modules)}, too few. Use a Python which has its sources."
        )
    return {split: "\n".join(texts) for split, texts in parts.items()}


def _modules(folder: Path) -> list[str]:
    # Names with an underscore are generated for the machine, and hold its paths.
    names = sorted(name for name in sys.stdlib_module_names if not name.startswith("_"))
    paths = [path for name in names if (path := folder / f"{name}.py").is_file()]
    texts: list[str] = []
    for path in paths:
        source = path.read_bytes()
        if sum(map(len, texts)) + len(source) > LIMIT:
            break
        if source.isascii() and 0 < len(source) <= LARGEST:
            texts.append(source.decode())
    return texts
