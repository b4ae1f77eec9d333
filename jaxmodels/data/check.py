"""Find bad examples before training does."""

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

Form = tuple[tuple[str, str, tuple[int, ...]], ...]
"""Name, type and shape of each field."""


@dataclass(frozen=True)
class CheckReport:
    """What `check` found, by the examples' indices in the source; `str(report)` is readable.

    `duplicates` maps an index to the first example with the same inputs, `overlap` to the one in
    the split `against`; the others map an index to what is wrong with it.
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
        """The indices to leave out, sorted: all that was found; of equal examples the first stays.

        An example that also stands in the other split is bad here: so check the training split
        against the test split, and the test split stays what others report on.
        """
        return np.array(sorted(set().union(*self._kinds().values())), dtype=np.int64)

    def __str__(self) -> str:
        """A line for each kind of finding, with the first few examples."""
        lines = [f"{self.name}: {self.examples:,} examples, {len(self.bad):,} bad"]
        for title, found in self._kinds().items():
            shown = [f"{index} ({what})" for index, what in list(found.items())[:3]]
            more = ", ..." if len(found) > 3 else ""
            if found:
                lines.append(f"  {len(found):,} {title}: {', '.join(shown)}{more}")
        return "\n".join(lines)

    def _kinds(self) -> dict[str, Mapping[int, object]]:
        return {
            "cannot be read": self.unreadable,
            "of another shape or type": self.shapes,
            "with NaN or infinite numbers": self.not_finite,
            "with a wrong label": self.labels,
            "equal to an earlier one": self.duplicates,
            f"also in {self.against}": self.overlap,
        }


def check(
    source: Any,
    num_classes: int | None = None,
    against: Any = None,
    name: str = "data",
) -> CheckReport:
    """Go through all examples and report the bad ones; with `against`, also those it shares.

    Both are a `Split`, or anything that `data.split` takes; `name` and `num_classes` are for the
    latter. Bad is an example that

    - cannot be read;
    - differs in fields, types or shapes from most others (sizes count only where more than half
      of the examples agree, ranks always);
    - has NaN or infinite numbers;
    - has a label that is no integer in 0..num_classes-1;
    - has the inputs of an earlier example, or of one in `against`. Inputs are the arrays that have
      an axis, else the texts, else all fields: so a label or an id is usually no part of them.
    """
    split = _as_split(source, num_classes, name)
    facts, unreadable = _gather(split)
    report = CheckReport(
        name=split.name,
        examples=len(split),
        unreadable=unreadable,
        shapes=_odd_ones({index: fact.form for index, fact in facts.items()}),
        not_finite={index: fact.not_finite for index, fact in facts.items() if fact.not_finite},
        labels={index: fact.label for index, fact in facts.items() if fact.label},
        duplicates=_repeated(facts),
    )
    return (
        report if against is None else _compared(report, facts, _as_split(against, None, "other"))
    )


class ExampleChecks(NamedTuple):
    """What one example shows by itself; the two texts are empty where all is well."""

    form: Form
    digest: bytes
    not_finite: str
    label: str


def _as_split(source: Any, num_classes: int | None, name: str) -> Split:
    return source if isinstance(source, Split) else Split(as_source(source, name), num_classes)


def _gather(split: Split) -> tuple[dict[int, ExampleChecks], dict[int, str]]:
    facts, unreadable = {}, {}
    indices = split.indices(np.arange(len(split))).tolist()
    for index in track(((1, index) for index in indices), len(split), f"Checking {split.name}"):
        try:
            fields = {key: np.asarray(value) for key, value in split.source[index].items()}
        except DataError as error:
            unreadable[index] = error.reason
        else:
            facts[index] = ExampleChecks(
                _form(fields),
                _digest(fields),
                _not_finite(fields),
                _wrong_label(fields, split.num_classes),
            )
    return facts, unreadable


def _form(fields: Mapping[str, np.ndarray]) -> Form:
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


def _odd_ones(forms: Mapping[int, Form]) -> dict[int, str]:
    """The examples whose form is not that of most others, and how it differs."""
    expected, count = _commonest(forms)
    if 2 * count <= len(forms):  # sizes vary, as lengths of texts and sounds do: compare ranks
        ranks = {index: tuple((k, t, (len(s),)) for k, t, s in f) for index, f in forms.items()}
        return _odd_ones_of(ranks, _commonest(ranks)[0], "rank")
    return _odd_ones_of(forms, expected, "shape")


def _commonest(forms: Mapping[int, Form]) -> tuple[Form, int]:
    common = Counter(forms.values()).most_common(1)
    return common[0] if common else ((), 0)


def _odd_ones_of(forms: Mapping[int, Form], expected: Form, size: str) -> dict[int, str]:
    def told(form: Form, other: Form) -> str:
        return ", ".join(f"{k}: {t}, {size} {s}" for k, t, s in form if (k, t, s) not in other)

    return {
        index: f"{told(form, expected) or 'nothing'} instead of {told(expected, form) or 'nothing'}"
        for index, form in forms.items()
        if form != expected
    }


def _repeated(facts: Mapping[int, ExampleChecks]) -> dict[int, int]:
    first: dict[bytes, int] = {}
    firsts = {index: first.setdefault(fact.digest, index) for index, fact in facts.items()}
    return {index: other for index, other in firsts.items() if other != index}


def _compared(report: CheckReport, facts: Mapping[int, ExampleChecks], other: Split) -> CheckReport:
    there = {fact.digest: index for index, fact in reversed(_gather(other)[0].items())}
    shared = {i: there[fact.digest] for i, fact in facts.items() if fact.digest in there}
    return replace(report, overlap=shared, against=other.name)
