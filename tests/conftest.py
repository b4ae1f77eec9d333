"""Before any test: eight CPU devices, strict ranks, and checked array shapes."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
from jaxtyping import install_import_hook

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

install_import_hook("jaxmodels", "beartype.beartype")
