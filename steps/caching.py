"""When a cached step may stand in for a run.

ZenML's cache key holds a step's own code, its parameters and its inputs' content. The thought of a step is
in regrow/, so the source of the modules that do its work goes into the key as well.
"""

from types import ModuleType

from zenml.config.cache_policy import CachePolicy


def depends_on(*modules: ModuleType) -> CachePolicy:
    """Return the default cache policy, with the source code of `modules` in the key."""
    return CachePolicy(source_dependencies=list(modules))
