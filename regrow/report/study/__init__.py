"""The report of a study."""

from regrow.report.study.page import study_page

__all__ = ["study_page"]
