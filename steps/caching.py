"""When a cached step may stand in for a run.

ZenML's cache key holds a step's own code, its parameters and its inputs' content. The thought of a step is
in regrow/, so the source of the modules that do its work goes into the key as well.
"""

import pkgutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

from zenml.config.cache_policy import CachePolicy

from regrow.files import canonical_digest, sha256_of


def depends_on(*modules: ModuleType, files: Callable[[], str] | None = None) -> CachePolicy:
    """Return the default cache policy, with the source code of `modules` in the key.

    Args:
        modules: the modules that do the step's work; of a package, every module in it.
        files: a function of a module that returns a digest of other files that the work depends on.
    """
    if not modules:
        return CachePolicy(cache_func=files)
    sources = [one for module in modules for one in _inside(module)]

    def code() -> str:
        found = {one.__name__: sha256_of(Path(str(one.__file__))) for one in sources}
        return canonical_digest([found, files() if files else None])

    # ZenML finds the function again by its name, in pods too, where importing this module imports every step first. It
    # cannot find modules there: it takes the last part of a dotted name for an attribute of what stands before.
    code.__name__ = code.__qualname__ = "_".join(
        ["code", *(one.__name__.replace(".", "_") for one in modules)]
    )
    globals()[code.__name__] = code
    return CachePolicy(cache_func=code)


def _inside(module: ModuleType) -> list[ModuleType]:
    """Return the modules of a package; its own file only names what they hold."""
    if not hasattr(module, "__path__"):
        return [module]
    names = sorted(found.name for found in pkgutil.iter_modules(module.__path__))
    return [import_module(f"{module.__name__}.{name}") for name in names]


def self_data_files() -> str:
    """Return the digest of what decides on self-data besides code: the packaged templates, and the rule's version."""
    import regrow.selfdata
    from regrow.selfdata import rule

    folder = Path(regrow.selfdata.__file__).parent / "templates"
    return canonical_digest(
        [rule.version(), {file.name: sha256_of(file) for file in sorted(folder.iterdir())}]
    )


def tuning_files() -> str:
    """Return the digest of the code that trains, which this process has no need to import."""
    import regrow.tune

    folder = Path(regrow.tune.__file__).parent
    return canonical_digest(
        {file.relative_to(folder).as_posix(): sha256_of(file) for file in sorted(folder.rglob("*.py"))}
    )
