"""Data validation: unreadable, malformed, non-finite, mislabelled, duplicate, leaked examples."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from jaxmodels.data.dataset import as_source
from jaxmodels.data.progress_bar import track
from jaxmodels.data.sources import DataError, is_numeric
from jaxmodels.data.split import Split

Signature = tuple[tuple[str, str, tuple[int, ...]], ...]
"""Name, dtype and shape of each field of an example."""


@dataclass(frozen=True)
class CheckReport:
    """Result of `check`; `str(report)` is a summary.

    Keys are indices of examples in the source. `duplicates` maps to the first example with the same
    inputs, `overlap` to the example of the split `against`; all others map to what is wrong.
    """

    name: str
    examples: int
    unreadable: Mapping[int, str] = field(default_factory=dict)
    shapes: Mapping[int, str] = field(default_factory=dict)
    not_finite: Mapping[int, str] = field(default_factory=dict)
    labels: Mapping[int, str] = field(default_factory=dict)
    duplicates: Mapping[int, int] = field(default_factory=dict)
    overlap: Mapping[int, int] = field(default_factory=dict)
    against: str = ""

    @property
    def bad(self) -> np.ndarray:
        """Sorted indices of all bad examples, for `batches(skip=...)`; the first duplicate is kept.

        Examples that are also in the split `against` are bad: check the training split against the
        test split, so that the test split remains what others report on.
        """
        return np.array(sorted(set().union(*self._kinds().values())), dtype=np.int64)

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.examples:,} examples, {len(self.bad):,} bad"]
        for title, found in self._kinds().items():
            shown = [f"{index} ({what})" for index, what in list(found.items())[:3]]
            more = ", ..." if len(found) > 3 else ""
            if found:
                lines.append(f"  {len(found):,} {title}: {', '.join(shown)}{more}")
        return "\n".join(lines)

    def _kinds(self) -> dict[str, Mapping[int, object]]:
        return {
            "unreadable": self.unreadable,
            "with another shape or dtype": self.shapes,
            "with NaN or infinite numbers": self.not_finite,
            "with a wrong label": self.labels,
            "duplicates of an earlier one": self.duplicates,
            f"also in {self.against}": self.overlap,
        }


def check(
    source: Any,
    num_classes: int | None = None,
    against: Any = None,
    name: str = "data",
) -> CheckReport:
    """Check all examples of a dataset and report the bad ones.

    `source` and `against` are a `Split`, or anything that `data.split` takes, with `name` and
    `num_classes`. An example is bad if it

    - cannot be read;
    - has other fields, dtypes or shapes than most examples (sizes count only if more than half of
      the examples agree, ranks always);
    - has NaN or infinite numbers;
    - has a label that is not an integer in 0..num_classes-1;
    - has the same inputs as an earlier example, or as one in `against` (leakage). Inputs are the
      arrays with at least one axis, else the texts, else all fields, so usually not label and id.
    """
    split = _as_split(source, num_classes, name)
    facts, unreadable = _examine(split)
    report = CheckReport(
        name=split.name,
        examples=len(split),
        unreadable=unreadable,
        shapes=_shape_outliers({index: fact.signature for index, fact in facts.items()}),
        not_finite={index: fact.not_finite for index, fact in facts.items() if fact.not_finite},
        labels={index: fact.label for index, fact in facts.items() if fact.label},
        duplicates=_duplicates(facts),
    )
    if against is None:
        return report
    return _with_overlap(report, facts, _as_split(against, None, "other"))


class ExampleChecks(NamedTuple):
    """Checks of one example: signature, hash of inputs, and what is wrong ("" if nothing is)."""

    signature: Signature
    digest: bytes
    not_finite: str
    label: str


def _as_split(source: Any, num_classes: int | None, name: str) -> Split:
    return source if isinstance(source, Split) else Split(as_source(source, name), num_classes)


def _examine(split: Split) -> tuple[dict[int, ExampleChecks], dict[int, str]]:
    facts, unreadable = {}, {}
    indices = split.indices(np.arange(len(split))).tolist()
    for index in track(((1, index) for index in indices), len(split), f"Checking {split.name}"):
        try:
            fields = {key: np.asarray(value) for key, value in split.source[index].items()}
        except DataError as error:
            unreadable[index] = error.reason
        else:
            facts[index] = ExampleChecks(
                _signature(fields),
                _digest(fields),
                _not_finite(fields),
                _wrong_label(fields, split.num_classes),
            )
    return facts, unreadable


def _signature(fields: Mapping[str, np.ndarray]) -> Signature:
    def kind(value: np.ndarray) -> str:
        return "text" if value.dtype.kind in "SUO" else value.dtype.name

    return tuple((key, kind(value), value.shape) for key, value in sorted(fields.items()))


def _digest(fields: Mapping[str, np.ndarray]) -> bytes:
    texts = {key: value for key, value in fields.items() if not is_numeric(value.dtype)}
    with_axis = {key: value for key, value in fields.items() if value.ndim}
    digest = hashlib.blake2b(digest_size=16)
    for key, value in sorted((with_axis or texts or fields).items()):
        digest.update(f"{key}{value.dtype}{value.shape}".encode())
        digest.update(value.tobytes())
    return digest.digest()


def _not_finite(fields: Mapping[str, np.ndarray]) -> str:
    numeric = {key: value for key, value in fields.items() if is_numeric(value.dtype)}
    return ", ".join(key for key, value in numeric.items() if not np.isfinite(value).all())


def _wrong_label(fields: Mapping[str, np.ndarray], classes: int | None) -> str:
    label = fields.get("label")
    if label is None or classes is None:
        return ""
    right = label.dtype.kind in "iu" and ((label >= 0) & (label < classes)).all()
    return "" if right else str(label)


def _shape_outliers(forms: Mapping[int, Signature]) -> dict[int, str]:
    """The examples whose signature is not the most common one, and how it differs."""
    expected, count = _most_common(forms)
    if 2 * count <= len(forms):  # sizes vary, as lengths of texts and sounds do: compare ranks
        ranks = {index: tuple((k, t, (len(s),)) for k, t, s in f) for index, f in forms.items()}
        return _outliers(ranks, _most_common(ranks)[0], "rank")
    return _outliers(forms, expected, "shape")


def _most_common(forms: Mapping[int, Signature]) -> tuple[Signature, int]:
    common = Counter(forms.values()).most_common(1)
    return common[0] if common else ((), 0)


def _outliers(forms: Mapping[int, Signature], expected: Signature, size: str) -> dict[int, str]:
    def describe(form: Signature, other: Signature) -> str:
        return ", ".join(f"{k}: {t}, {size} {s}" for k, t, s in form if (k, t, s) not in other)

    return {
        index: f"{describe(form, expected) or 'nothing'} instead of "
        f"{describe(expected, form) or 'nothing'}"
        for index, form in forms.items()
        if form != expected
    }


def _duplicates(facts: Mapping[int, ExampleChecks]) -> dict[int, int]:
    first: dict[bytes, int] = {}
    firsts = {index: first.setdefault(fact.digest, index) for index, fact in facts.items()}
    return {index: other for index, other in firsts.items() if other != index}


def _with_overlap(
    report: CheckReport, facts: Mapping[int, ExampleChecks], other: Split
) -> CheckReport:
    indices = {fact.digest: index for index, fact in reversed(_examine(other)[0].items())}
    shared = {i: indices[fact.digest] for i, fact in facts.items() if fact.digest in indices}
    return replace(report, overlap=shared, against=other.name)
