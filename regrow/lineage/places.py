"""Places on the machine that made something are no part of a statement.

A statement travels with a model to wherever that is published. What lay at a path is named by its digest; the path
itself helps nobody elsewhere, and tells users' and machines' names. Of a path only the last part is kept.
"""

from pathlib import Path, PurePath
from urllib.parse import unquote, urlsplit

_LONGEST = 4096


def local(name: str) -> str:
    """Return what stands for a file or folder of the maker's machine: `local:` and its name."""
    return f"local:{name or '/'}"


def without_place(text: str) -> str:
    """Return `local:NAME` for a path from the root, from a home or from above, or a file: URI; any other text as it is.

    Texts that only look like paths, such as the prompt `/no_think`, stay: of a path, at least the folder is there.
    """
    if text.startswith("file:"):
        return local(PurePath(unquote(urlsplit(text).path)).name)
    if not text.startswith(("/", "~", "../")) or len(text) > _LONGEST or "\n" in text:
        return text
    return local(PurePath(text).name) if _is_path(text) else text


def _is_path(text: str) -> bool:
    try:
        path = Path(text)
        whole = path.expanduser()
        return len(path.parts) > 1 and (whole.exists() or (len(path.parts) > 2 and whole.parent.exists()))
    except (OSError, RuntimeError, ValueError):  # a name too long, no such user, a null byte
        return False
