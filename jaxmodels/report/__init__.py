"""What a run leaves behind for people: metrics, progress, and one page that shows it all.

Importing this is cheap: matplotlib and jax are imported only where a page is made.
"""

from jaxmodels.report.attention import AttentionMap, attention
from jaxmodels.report.classification import classification
from jaxmodels.report.comparison import comparison
from jaxmodels.report.confusion import confusion
from jaxmodels.report.cost import Costs, cost, cost_lines
from jaxmodels.report.curves import curves
from jaxmodels.report.filters import filters
from jaxmodels.report.latent import latent, reconstruction
from jaxmodels.report.log import Log, read_metrics
from jaxmodels.report.page import Section, write_page
from jaxmodels.report.plan import change_as_options, plan, plan_lines
from jaxmodels.report.predictions import predictions
from jaxmodels.report.tables import parameters, settings
from jaxmodels.report.text import samples, sampling, together, translations
from jaxmodels.report.throughput import throughput
from jaxmodels.report.translator import translator
from jaxmodels.report.verdict import summary

__all__ = [
    "AttentionMap",
    "Costs",
    "Log",
    "Section",
    "attention",
    "change_as_options",
    "classification",
    "comparison",
    "confusion",
    "cost",
    "cost_lines",
    "curves",
    "filters",
    "latent",
    "parameters",
    "plan",
    "plan_lines",
    "predictions",
    "read_metrics",
    "reconstruction",
    "samples",
    "sampling",
    "settings",
    "summary",
    "throughput",
    "together",
    "translations",
    "translator",
    "write_page",
]
