"""A checkpoint in the layout of the artifact store."""

from pathlib import Path

from regrow.checkpoint import Checkpoint
from regrow.registry import write_mlflow_model


def store(checkpoint: Checkpoint, folder: Path) -> Path:
    """Store a checkpoint as the pipeline does, and return the folder."""
    folder.mkdir(parents=True)
    write_mlflow_model(checkpoint, folder)
    return folder


def weights_below(*folders: Path) -> set[tuple[int, int]]:
    """Every file of weights below some folders, once for all its hard links."""
    found = [path.stat() for folder in folders for path in folder.rglob("*.safetensors")]
    return {(one.st_dev, one.st_ino) for one in found}
