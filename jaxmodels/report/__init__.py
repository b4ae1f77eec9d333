"""HTML reports, learning curves and logs of a run.

Nothing here runs a model (see `jaxmodels.inspect`). Importing this is cheap: matplotlib is imported
only where a page is made.
"""

from jaxmodels.report.attention import AttentionMap, attention
from jaxmodels.report.comparison import comparison
from jaxmodels.report.confusion import confusion
from jaxmodels.report.cost import Costs, cost, cost_lines
from jaxmodels.report.curves import curves
from jaxmodels.report.filters import filters
from jaxmodels.report.log import Log, read_metrics
from jaxmodels.report.page import Section, failed_section, sections, write_page
from jaxmodels.report.plan import change_as_options, plan, plan_lines
from jaxmodels.report.predictions import predictions
from jaxmodels.report.tables import parameters, settings
from jaxmodels.report.text import samples, translations
from jaxmodels.report.throughput import throughput
from jaxmodels.report.verdict import Results, single_values, summary

__all__ = [
    "AttentionMap",
    "Costs",
    "Log",
    "Results",
    "Section",
    "attention",
    "change_as_options",
    "comparison",
    "confusion",
    "cost",
    "cost_lines",
    "curves",
    "failed_section",
    "filters",
    "parameters",
    "plan",
    "plan_lines",
    "predictions",
    "read_metrics",
    "samples",
    "sections",
    "settings",
    "single_values",
    "summary",
    "throughput",
    "translations",
    "write_page",
]
