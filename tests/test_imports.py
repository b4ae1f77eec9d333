"""Who may import whom, and what an import costs."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "jaxmodels"

BASE = {"typing", "errors", "tree", "losses", "special_tokens", "terms", "kernels", "metric"}
ALLOWED = {
    "errors": set(),
    "typing": {"errors"},
    "tree": set(),
    "special_tokens": set(),
    "terms": {"typing", "errors"},
    "metric": set(),
    "kernels": {"typing", "errors"},
    "losses": {"typing", "errors", "kernels"},
    "flops": BASE,
    "chips": set(),
    "layers": BASE,
    "models": BASE | {"layers"},
    "adapters": BASE,
    "grads": BASE,
    "objectives": BASE | {"adapters"},
    "optimizers": BASE,
    "generate": BASE | {"adapters"},
    "metrics": BASE | {"adapters"},
    "data": BASE,
    "report": BASE,
    "sharding": BASE,
    "train": BASE | {"adapters", "sharding", "grads"},
    "inspect": BASE | {"adapters", "sharding", "report", "generate", "data", "train", "metrics"},
    "plan": BASE | {"chips", "flops", "sharding"},
    "experiment": BASE
    | {
        "adapters",
        "plan",
        "data",
        "sharding",
        "grads",
        "train",
        "objectives",
        "metrics",
        "report",
        "flops",
        "chips",
    },
}
"""Every part, and the parts that it may import beside itself. There is no cycle among them."""

FLAX = {"layers", "models", "adapters"}


@functools.cache
def imports(path):
    """The names that a file imports anywhere in it, also those of `TYPE_CHECKING`."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def part(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


FILES = sorted(
    path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem != "__init__"
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downwards(path):
    own = {name.split(".")[1] for name in imports(path) if name.startswith("jaxmodels.")}
    assert own - {part(path)} <= ALLOWED[part(path)]
    flax = any(name.split(".")[0] == "flax" for name in imports(path))
    assert not flax or part(path) in FLAX


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").glob("*.py")), ids=lambda p: p.stem)
def test_an_experiment_imports_no_other(path):
    assert not any(name.startswith("experiments") for name in imports(path))


def test_files_of_a_part_import_each_other_without_a_cycle():
    graph = {
        path: {
            other
            for other in FILES
            for name in imports(path)
            if name.startswith(module(other) + ".") or name == module(other)
        }
        - {path}
        for path in FILES
        if path.stem != "__init__"
    }
    done = set()
    while ready := {path for path, needs in graph.items() if needs & graph.keys() <= done} - done:
        done |= ready
    assert done == graph.keys(), f"a cycle among {sorted(map(str, graph.keys() - done))}"


def module(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def python(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.strip()


def test_the_package_imports_nothing():
    found = python("import sys, jaxmodels; print({'jax', 'numpy', 'flax'} & set(sys.modules))")
    assert found == "set()"


def test_a_models_module_costs_nothing_beyond_flax():
    code = """
import sys
import flax.linen, jaxtyping
before = set(sys.modules)
import jaxmodels.models.cnn, jaxmodels.models.mlp, jaxmodels.models.resnet
print({name.split('.')[0] for name in set(sys.modules) - before})
"""
    assert python(code) == "{'jaxmodels'}"


def test_a_start_imports_only_what_a_first_step_needs():
    late = "matplotlib", "tensorflow", "tensorflow_datasets", "grain", "sklearn", "tensorboardX"
    code = f"""
import sys
sys.path.insert(0, 'experiments')
import cnn_digits
cnn_digits.cnn_digits()
print(sorted(set({late}) & set(sys.modules)))
"""
    assert python(code) == "[]"
