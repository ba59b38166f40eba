"""Great Expectations, silent and to itself."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Great Expectations from printing, and from reporting to its makers."""
    # Read when it is imported.
    os.environ["GX_ANALYTICS_ENABLED"] = "False"
    parent = logging.getLogger("great_expectations")
    before = {parent: parent.level}
    parent.setLevel(logging.ERROR)
    import great_expectations  # noqa: F401 - some of its loggers set a level of their own when imported

    for name in list(logging.root.manager.loggerDict):
        if name.startswith(("great_expectations.", "posthog")):
            logger = logging.getLogger(name)
            before[logger] = logger.level
            logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)
