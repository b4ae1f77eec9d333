"""Before any test: eight CPU devices, strict ranks, checked shapes, caches of its own."""

import atexit
import gc
import os
import shutil
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Also where there are accelerators, or where libtpu is there to compile for them.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = " ".join(
    [
        # Most of the tests' time is compiling what is run once or twice; what the caller says of
        # this, being the last word, holds.
        "--xla_backend_optimization_level=0",
        os.environ.get("XLA_FLAGS", ""),
        # Eight devices on two busy cores may keep each other waiting for longer than the 40 s after
        # which XLA ends the process.
        "--xla_cpu_collective_call_warn_stuck_timeout_seconds=120",
        "--xla_cpu_collective_call_terminate_timeout_seconds=600",
    ]
)

import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

install_import_hook("jaxmodels", "beartype.beartype")

# For the runs in this session and the processes that it starts; the user's own stays as it is.
os.environ["JAXMODELS_CACHE"] = tempfile.mkdtemp(prefix="jaxmodels-cache-")
atexit.register(shutil.rmtree, os.environ["JAXMODELS_CACHE"], ignore_errors=True)


@pytest.fixture(autouse=True, scope="module")
def clear_compilations():
    """After each file give up what it compiled, which else adds up to gigabytes."""
    yield
    jax.clear_caches()
    gc.collect()
