"""The Hugging Face hub: model snapshots and datasets, at a revision, online or from a filled cache."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from regrow.errors import InputError
from regrow.source.grammar import Source

_COMMIT = re.compile(r"[0-9a-f]{40}")
_log = logging.getLogger(__name__)

# What a model folder may hold. Pickled weights and code are never taken, whatever the repository offers.
MODEL_FILES = (
    "*.safetensors",
    "*.json",
    "*.jinja",
    "*.txt",
    "*.model",
    "*.tiktoken",
    "LICENSE*",
    "LICENCE*",
    "NOTICE*",
    "USE_POLICY*",
)
# Other formats' weights that some repositories keep beside the Hugging Face ones.
NOT_MODEL_FILES = ("*/*", "consolidated*", "training_args*", "optimizer*", "*.bin.index.json")


def snapshot(source: Source) -> Path:
    """Return the folder of a hub model at its revision; only safe file types are downloaded.

    Raises:
        InputError: the hub is out of reach, refuses, or has no such model or revision.
    """
    from huggingface_hub import constants, snapshot_download

    with _errors_are_clear(source, "model"):
        folder = snapshot_download(
            source.name,
            revision=source.version,
            allow_patterns=list(MODEL_FILES),
            ignore_patterns=list(NOT_MODEL_FILES),
            local_files_only=constants.HF_HUB_OFFLINE,
        )
    return Path(folder)


def dataset(source: Source) -> Any:
    """Return a hub dataset's split at its revision, as a memory-mapped `datasets.Dataset`.

    Raises:
        InputError: the hub is out of reach, refuses, or has no such dataset, revision or split.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    if not _COMMIT.fullmatch(source.version):
        # Offline, only a commit can be compared with what the cache holds.
        raise InputError(f"{source.text}: data is pinned by a full commit (40 hexadecimal digits), not a tag")
    with _errors_are_clear(source, "dataset"):
        try:
            found = load_dataset(source.name, source.config, split=source.split, revision=source.version)
        except DatasetNotFoundError as error:
            reason = _first_line(error)
            raise InputError(f"{source.text}: {reason} If it is private or gated, `hf auth login`") from None
    # Without the hub `datasets` falls back, with a mere warning, to whatever revision it has in its cache.
    places = [*(found.info.download_checksums or {}), *(file["filename"] for file in found.cache_files)]
    if not any(source.version in place for place in places):
        raise InputError(
            f"{source.text}: the cache holds another revision and the hub is out of reach; fetch this one "
            f"where the hub answers (`{_command(source, 'dataset')}`) and bring that cache here (HF_HOME)"
        )
    return found


@contextmanager
def _errors_are_clear(source: Source, kind: str) -> Iterator[None]:
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise InputError(
            f"{source.text}: access is gated; accept the licence on its page and log in with `hf auth login`"
        ) from None
    except errors.RevisionNotFoundError:
        raise InputError(f"{source.text}: no revision {source.version!r}; copy one from its page") from None
    except (errors.HFValidationError, errors.BadRequestError) as error:
        raise InputError(f"{source.text}: {_first_line(error)}") from None
    except ValueError as error:
        # `datasets` says so for an unknown configuration or split, and for a cache that lacks one.
        raise InputError(
            f"{source.text}: {_first_line(error)}; write #config/split after the revision"
        ) from None
    except (errors.RepositoryNotFoundError, OSError, RuntimeError) as error:
        _log.debug("%s: %s", source.text, error, exc_info=True)
        if _is_absent(error):
            raise InputError(
                f"{source.text}: the hub has no such {kind} (or it is private: log in with `hf auth login`)"
            ) from None
        raise InputError(
            f"{source.text}: the hub is out of reach and its cache does not hold this {kind}; fetch it where "
            f"the hub answers (`{_command(source, kind)}`), bring that cache here (HF_HOME) and set "
            "HF_HUB_OFFLINE=1, or name a local folder or file as the source"
        ) from None


def _command(source: Source, kind: str) -> str:
    if kind == "model":
        return f"hf download {source.name} --revision {source.version}"
    # `hf download` would fill a cache that `datasets` does not look into.
    names = ", ".join(repr(name) for name in (source.name, source.config) if name)
    return f'python -c "from datasets import load_dataset as d; d({names}, revision={source.version!r})"'


def _is_absent(error: BaseException) -> bool:
    """Tell a hub that answered "not there" from one that did not answer."""
    response = getattr(error, "response", None)
    return getattr(response, "status_code", None) in (401, 404)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
