"""Generation: sampling, greedy and beam search, translation.

All of it is pure and batched, compiled once for a shape, and works for every model that keeps its
state in a collection: recurrent networks (`carry`) and Transformers (`cache`), alone or behind an
encoder.
"""

from jaxmodels.generate.beam import beam_search
from jaxmodels.generate.incremental import IncrementalDecoder, causal, conditional
from jaxmodels.generate.long_context import generate
from jaxmodels.generate.samplers import greedy, temperature, top_k, top_p
from jaxmodels.generate.sampling import decode, sample
from jaxmodels.generate.translation import translate, translator

__all__ = [
    "IncrementalDecoder",
    "beam_search",
    "causal",
    "conditional",
    "decode",
    "generate",
    "greedy",
    "sample",
    "temperature",
    "top_k",
    "top_p",
    "translate",
    "translator",
]
