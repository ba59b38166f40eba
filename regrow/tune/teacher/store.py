"""The folder that holds a teacher's top-k log-probabilities: `store.json` and shards of safetensors.

A shard holds `shard_size` consecutive examples:

    ids       int32 (positions, k)    tokens, the most probable first
    logprobs  float16 (positions, k)  log-probabilities under the whole softmax, not renormalised, in nats
    mass      float32 (positions,)    log of the k tokens' total probability, of the unrounded values
    offsets   int64 (examples + 1,)   where each example's positions begin and end

That is 6 k + 4 bytes for a position (388 at k = 64). float16 keeps 11 bits of a log-probability. Alone it would
move a position's total by up to 5e-4, beyond 1 at one position in a hundred, which ruins what is left for
the tail; so the reader scales the k probabilities to the stored total. On SmolLM2-135M at k = 64, with all other tokens
as one bucket, KL between what is read and the exact softmax was 9e-8 nats on average (605 positions); without
the stored total it was 4e-6 (5417 positions of other text).
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from regrow import tensors
from regrow.errors import InputError
from regrow.files import atomic_file, read_json, write_json
from regrow.tune.data import loss_positions

if TYPE_CHECKING:
    import torch

# Changes when older stores would no longer be read rightly.
FORMAT = 1
SETTINGS = "store.json"
_TYPES = {"ids": "I32", "logprobs": "F16", "mass": "F32", "offsets": "I64"}


def bounds(tokens: Sequence[Sequence[int]], prompts: Sequence[int]) -> list[int]:
    """Return where each example's positions begin in the whole set, and where the last one's end."""
    counts = (len(loss_positions(prompt, len(ids))) for ids, prompt in zip(tokens, prompts, strict=True))
    return list(accumulate(counts, initial=0))


class Settings(BaseModel):
    """What a store was written for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    teacher: str = Field(description="digest of the teacher's checkpoint")
    data: str = Field(description="digest of the examples (`Examples.digest`)")
    examples: int = Field(description="number of examples")
    k: int = Field(description="tokens kept for a position")
    temperature: float = Field(description="that the logits were divided by")
    vocabulary: int = Field(description="logits that the teacher gives for a position")
    shard_size: int = Field(description="examples in a shard; fewer in the last")
    dtype: str = Field(description="type that the teacher computed in")

    @property
    def shards(self) -> int:
        """Number of shards of a finished store."""
        return -(-self.examples // self.shard_size)

    def part(self, shard: int) -> range:
        """The examples that a shard holds."""
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.examples))

    @classmethod
    def read(cls, folder: Path) -> "Settings":
        """Read a store's settings.

        Raises:
            InputError: there are none, or another version of this code wrote them.
        """
        file = folder / SETTINGS
        if not file.exists():
            raise InputError(f"{folder}: no {SETTINGS}; no teacher's log-probabilities were written there")
        found = read_json(file)
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            version = found.get("format") if isinstance(found, dict) else None
            raise InputError(f"{file}: format {version}, not {FORMAT}; write it again into another folder")
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            raise InputError(f"{file}: {name}: {first['msg']}; write it again into another folder") from None

    def require(self, folder: Path, wanted: dict[str, Any]) -> None:
        """Check settings that a user of the store relies on.

        Raises:
            InputError: some differ; the message names each.
        """
        odd = [
            _difference(name, getattr(self, name), value)
            for name, value in wanted.items()
            if getattr(self, name) != value
        ]
        if odd:
            raise InputError(
                f"{folder}: written for {' and '.join(odd)}; name another folder, or remove this one"
            )

    def claim(self, folder: Path, rank: int) -> None:
        """Make a folder the store of these settings, or check that it is.

        Raises:
            InputError: it is another store, or holds other files.
        """
        if not (folder / SETTINGS).exists():
            if folder.exists() and (not folder.is_dir() or any(_visible(folder))):
                raise InputError(f"{folder}: holds other files; name another folder")
            folder.mkdir(parents=True, exist_ok=True)
            # A name of the rank's own: processes on two machines may share a process id.
            mine = folder / f".{SETTINGS}.{rank}"
            write_json(mine, self.model_dump())
            mine.replace(folder / SETTINGS)
        self.read(folder).require(folder, self.model_dump())


def _visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".") and path.name != SETTINGS]


def _difference(name: str, found: Any, wanted: Any) -> str:
    match name:
        case "teacher":
            return f"another teacher ({found[:12]}, not {wanted[:12]})"
        case "data":
            return f"other examples ({found[:12]}, not {wanted[:12]})"
        case _:
            return f"{name} {found} (not {wanted})"


def shard_file(folder: Path, shard: int) -> Path:
    """Return where a shard lies."""
    return folder / f"shard-{shard:05d}.safetensors"


def write_shard(file: Path, content: "dict[str, torch.Tensor]") -> None:
    """Write a finished shard, atomically, and remove what a killed process left of it."""
    from safetensors.torch import save

    for left in file.parent.glob(f".{file.name}.partial-*"):
        left.unlink(missing_ok=True)
    # Through Python's own writing, so that a full disk is the operating system's error.
    with atomic_file(file) as scratch:
        scratch.write_bytes(save(content))


def is_whole(file: Path, settings: Settings, shard: int, starts: Sequence[int] | None = None) -> bool:
    """Tell whether a shard is there, in full, with the shapes that it must have.

    Args:
        file: the shard.
        settings: of its store.
        shard: its number.
        starts: the offsets that it must hold; compared when given.
    """
    try:
        header = tensors.read_header(file)
        size = file.stat().st_size
    except (InputError, FileNotFoundError, KeyError, TypeError, AttributeError):
        return False
    if {name: info.dtype for name, info in header.items()} != _TYPES:
        return False
    rows = header["mass"].shape[0]
    shapes = {
        "ids": (rows, settings.k),
        "logprobs": (rows, settings.k),
        "mass": (rows,),
        "offsets": (len(settings.part(shard)) + 1,),
    }
    if {name: info.shape for name, info in header.items()} != shapes:
        return False
    if max(info.end for info in header.values()) != size:
        return False
    return starts is None or (
        rows == starts[-1] and tensors.load(header["offsets"], "offsets").tolist() == list(starts)
    )


class TopKLogits:
    """A finished store, read example by example from memory maps.

    Args:
        folder: the store.
        settings: what it was written for.
    """

    # An open shard is a memory map: address space and shared pages, neither a copy nor a file descriptor.
    _OPEN = 1024

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder
        self.settings = settings
        self._shards: OrderedDict[int, dict[str, torch.Tensor]] = OrderedDict()

    @classmethod
    def open(cls, folder: Path, *, teacher: str, data: str, k: int, temperature: float) -> "TopKLogits":
        """Open a store and check that it is the wanted one, and finished.

        Args:
            folder: the store.
            teacher: digest of the teacher's checkpoint.
            data: digest of the examples.
            k: tokens kept for a position.
            temperature: that the logits were divided by.

        Raises:
            InputError: there is none, it was written for something else, or shards are missing or damaged.
        """
        settings = Settings.read(folder)
        settings.require(folder, {"teacher": teacher, "data": data, "k": k, "temperature": temperature})
        done = finished(folder, settings)
        if done < settings.shards:
            raise InputError(
                f"{folder}: unfinished: {done} of {settings.shards} shards; "
                "write the teacher's log-probabilities again to continue"
            )
        return cls(folder, settings)

    @staticmethod
    def complete(folder: Path) -> bool:
        """Tell whether a folder is a store with all its shards."""
        if not (folder / SETTINGS).exists():
            return False
        settings = Settings.read(folder)
        return finished(folder, settings) == settings.shards

    def __len__(self) -> int:
        return self.settings.examples

    def __getitem__(self, example: int) -> "tuple[torch.Tensor, torch.Tensor]":
        """Return an example's tokens and log-probabilities at its `loss_positions`.

        Returns:
            ids, int64 (n, k), and log-probabilities in nats, float32 (n, k), most probable first; their total
            probability is below 1 by what the other tokens have.
        """
        if not 0 <= example < len(self):
            raise IndexError(f"example {example} of {len(self)}")
        shard, row = divmod(example, self.settings.shard_size)
        content = self._shard(shard)
        begin, end = content["offsets"][row : row + 2].tolist()
        ids = content["ids"][begin:end].long()
        logprobs = content["logprobs"][begin:end].float()
        logprobs += (content["mass"][begin:end] - logprobs.logsumexp(-1)).unsqueeze(-1)
        return ids, logprobs

    def __getstate__(self) -> dict[str, Any]:
        # To another process goes the name of the folder, not what is mapped from it.
        return self.__dict__ | {"_shards": OrderedDict()}

    def _shard(self, shard: int) -> "dict[str, torch.Tensor]":
        if shard in self._shards:
            self._shards.move_to_end(shard)
            return self._shards[shard]
        from safetensors.torch import load_file

        content = load_file(shard_file(self.folder, shard))
        self._shards[shard] = content
        if len(self._shards) > self._OPEN:
            self._shards.popitem(last=False)
        return content


def finished(folder: Path, settings: Settings) -> int:
    """Return how many shards of a store are whole."""
    return sum(is_whole(shard_file(folder, shard), settings, shard) for shard in range(settings.shards))
