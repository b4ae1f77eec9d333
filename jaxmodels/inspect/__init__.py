"""Inspect a trained model: predictions, samples, reconstructions, latents, attention maps.

Each function makes an inspection, `(variables, metrics, mesh) -> sections` of a page, which runs
its `model` on the mesh, with the variables as they are placed there. All processes call it, since
all compute; the sections are the same on each.
"""

from jaxmodels.inspect.classification import classification
from jaxmodels.inspect.latents import latents, reconstruction
from jaxmodels.inspect.on_mesh import concat
from jaxmodels.inspect.text import text_samples
from jaxmodels.inspect.translations import translations

__all__ = [
    "classification",
    "concat",
    "latents",
    "reconstruction",
    "text_samples",
    "translations",
]
