"""The rows of the table of plans."""

import sys
from pathlib import Path

from jaxmodels.plan import Plan
from jaxmodels.plan.collectives import CollectiveSummary

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))

from scaling import efficiency, row

PLANNED = {
    "target": "v5e:2x4",
    "devices": 8,
    "chip": "TPU v5e",
    "mesh": {"fsdp": 4, "tensor": 2},
    "parameters": 1,
    "memory": {"params": 2**30, "temporaries": 2**31},
    "memory_limit": 2**34,
    "flops": 900,
    "matmul_flops": 800,
    "device_matmul_flops": 100,
    "uncounted": (),
    "lower_bounds": {"matmul": 0.006, "memory": 0.001, "network": 0.002},
    "per_step": {"examples": 8, "tokens": 8 * 1024},
    "collectives": (
        CollectiveSummary("all-gather", 3, 2**30),
        CollectiveSummary("all-reduce", 1, 2**29),
    ),
    "placement": (),
    "compile_seconds": 12.3,
}


def cells(made):
    return [cell.strip() for cell in row("gpt", made).strip("|").split("|")]


def test_a_row_of_what_fits():
    assert cells(Plan(**PLANNED)) == [
        "gpt",
        "v5e:2x4",
        "fsdp=4, tensor=2",
        "8 x 1,024",
        "3.0 of 16",
        "1.50",
        "6.0",
        "1.0",
        "2.0",
        "75% to 100%",
        f"{8 * 1024 / 0.015:,.0f}",
        "12",
    ]


def test_products_that_an_axis_does_not_split_are_no_efficiency():
    assert efficiency(Plan(**{**PLANNED, "device_matmul_flops": 200})) == "38% to 50%"


def test_a_row_of_what_does_not_fit():
    unknown = {
        "device_matmul_flops": None,
        "collectives": None,
        "lower_bounds": {"matmul": 0.006, "memory": 0.001},
    }
    found = cells(Plan(**{**PLANNED, **unknown, "memory_limit": 2**30}))
    assert found[4:] == ["3.0 of 1", "does not fit", "6.0", "1.0", "", "", "", "12"]
