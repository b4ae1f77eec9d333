"""What a run leaves behind for people: metrics, progress, and one page that shows it all.

Importing this is cheap: matplotlib and jax are imported only where a page is made.
"""

from jaxmodels.report.classification import classification
from jaxmodels.report.comparison import comparison
from jaxmodels.report.confusion import confusion
from jaxmodels.report.curves import curves
from jaxmodels.report.filters import filters
from jaxmodels.report.log import Log, read_metrics
from jaxmodels.report.page import Section, write_page
from jaxmodels.report.predictions import predictions
from jaxmodels.report.tables import parameters, settings
from jaxmodels.report.throughput import throughput
from jaxmodels.report.verdict import summary

__all__ = [
    "Log",
    "Section",
    "classification",
    "comparison",
    "confusion",
    "curves",
    "filters",
    "parameters",
    "predictions",
    "read_metrics",
    "settings",
    "summary",
    "throughput",
    "write_page",
]
