"""Where models, datasets and texts come from.

One line names a source, and nothing in it may move under the reader's feet:

    hub:org/name@revision             a model or dataset of the Hugging Face hub
    hub:org/name@revision#config/split    a dataset's configuration and split (default: split train)
    pypi:package==version#path/inside     a file or folder of a wheel, pinned by the wheel's SHA-256
    mlflow:models:/name/3             a version of the MLflow model registry (or name@alias)
    s3://bucket/path                  a file or folder in an object store, pinned by its SHA-256 or digest
    path/to/folder, file.gguf, data.jsonl[.gz], .json, .parquet, .csv, .arrow, a folder saved by `datasets`

Specs are what a configuration says; `resolve_model`, `read_rows`, `read_texts` and `fetch` turn them into
checkpoints, rows, texts and paths. `pin` writes the content of local files into a spec, for cache keys.
"""

from regrow.source.grammar import Source, parse
from regrow.source.local import fetch, pin
from regrow.source.models import resolve_model
from regrow.source.origin import origin
from regrow.source.rows import lookup, open_rows, read_rows, read_texts
from regrow.source.specs import FAMILIES, DatasetSpec, EncoderSpec, Family, ModelSpec, TextSpec

__all__ = [
    "FAMILIES",
    "DatasetSpec",
    "EncoderSpec",
    "Family",
    "ModelSpec",
    "Source",
    "TextSpec",
    "fetch",
    "lookup",
    "open_rows",
    "origin",
    "parse",
    "pin",
    "read_rows",
    "read_texts",
    "resolve_model",
]
