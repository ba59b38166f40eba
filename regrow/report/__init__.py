"""What runs and studies found: a table for the terminal, and HTML files for people.

A page needs nothing beside itself: styles and plots are inside, nothing is fetched. Text from models and data is
escaped by the templates.
"""

from regrow.report.details import Details, sample_rewrites
from regrow.report.pages import (
    drift_page,
    importance_page,
    measures_page,
    scores_page,
    selfdata_page,
    shift_page,
    tuning_page,
)
from regrow.report.run import headline, html, run_page
from regrow.report.study import study_page
from regrow.report.table import table

__all__ = [
    "Details",
    "drift_page",
    "headline",
    "html",
    "importance_page",
    "measures_page",
    "run_page",
    "sample_rewrites",
    "scores_page",
    "selfdata_page",
    "shift_page",
    "study_page",
    "table",
    "tuning_page",
]
