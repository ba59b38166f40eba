import pytest

from regrow import report
from regrow.study import StudyResult
from tests import example_run as example
from tests.report.page import Page


@pytest.fixture(scope="session")
def study() -> StudyResult:
    """Three sizes of cut, five arms, three seeds."""
    return example.study()


@pytest.fixture(scope="session")
def study_page(study: StudyResult) -> Page:
    return Page(report.study_page(study))


@pytest.fixture(scope="session")
def run_page() -> Page:
    """A run with everything that can be measured."""
    found = example.measures()
    return Page(
        report.html(
            example.summary(), None, example.details(), scores=example.run_models(), drifts=found.drifts,
            speeds=found.speeds, speculation=found.drafts[0],
        )
    )  # fmt: skip
