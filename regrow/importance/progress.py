"""What an interrupted measurement continues from."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from regrow.files import read_json, write_json

if TYPE_CHECKING:
    from regrow.importance.tally import Tally


class Progress:
    """A folder with the sums so far, named by everything that they depend on.

    Args:
        work: the folder; None keeps nothing.
        key: digest of model, texts, settings and versions.
    """

    SECONDS: ClassVar[float] = 20.0  # between two savings of a pass that batches make

    def __init__(self, work: Path | None, key: str) -> None:
        self.folder = work / key if work else None

    def restore(self, tally: "Tally") -> int:
        """Give `tally` the sums of the parts that are done, and return how many they are."""
        if self.folder is None or not (file := self.folder / "tally.safetensors").exists():
            return 0
        return tally.restore(file)

    def save(self, tally: "Tally", done: int) -> None:
        """Keep the sums after so many parts."""
        if self.folder is not None:
            tally.save(self.folder / "tally.safetensors", done)

    def read(self, name: str) -> Any:
        """Return a JSON value that was kept under a name; None if there is none."""
        file = self.folder / f"{name}.json" if self.folder else None
        return read_json(file) if file and file.exists() else None

    def write(self, name: str, value: Any) -> None:
        """Keep a JSON value under a name."""
        if self.folder is not None:
            write_json(self.folder / f"{name}.json", value)
