"""Tensors on disk, one at a time.

Reading goes through the headers of the safetensors files and memory maps; writing streams into shards
whose headers are laid out beforehand. Peak memory is one tensor, whatever the size of the model.
The format: 8 bytes little-endian header length, a JSON header, then the bytes of each tensor.
"""

import json
import math
import struct
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from regrow.errors import InputError
from regrow.files import read_json, write_json

if TYPE_CHECKING:
    import torch

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_COPY_CHUNK = 4 * 2**20
# Small pieces are gathered to this many bytes: each write is a call to the system and two to other threads.
_GATHERED = 2**19
# Bits an element of each safetensors type takes.
_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8,
    "U16": 16, "U32": 32, "U64": 64, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies: its type, shape, and the byte range [start, end) in a file."""

    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    end: int

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.end - self.start

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def index(folder: Path) -> dict[str, TensorInfo]:
    """Return every tensor of a checkpoint folder by name, from the headers alone.

    Raises:
        InputError: there are no safetensors, a shard is missing, truncated or not in the format.
    """
    if (folder / INDEX).exists():
        names = read_json(folder / INDEX).get("weight_map", {})
        files = [folder / name for name in sorted(set(names.values()))]
    elif (folder / SINGLE).exists():
        names, files = None, [folder / SINGLE]
    else:
        pickled = sorted(p.name for p in folder.glob("*.bin")) + sorted(p.name for p in folder.glob("*.pt*"))
        if pickled:
            raise InputError(
                f"{folder}: only pickled weights ({pickled[0]}), which regrow never opens; "
                "convert them to safetensors with transformers' save_pretrained in an environment you trust"
            )
        raise InputError(f"{folder}: no {SINGLE} and no {INDEX}; this is not a model folder")
    tensors: dict[str, TensorInfo] = {}
    for file in files:
        tensors.update(read_header(file))
    if names is not None and set(names) != set(tensors):
        odd = sorted(set(names) ^ set(tensors))[0]
        raise InputError(f"{folder / INDEX}: does not match its shards (first difference: {odd})")
    return tensors


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Return the tensors of one safetensors file by name.

    Raises:
        InputError: the file is missing, truncated or not in the format.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > min(size, 100 * 2**20):
                raise ValueError("header longer than the file")
            header = json.loads(stream.read(length))
    except FileNotFoundError:
        raise InputError(f"{file}: this shard is missing; fetch the model again") from None
    except (ValueError, struct.error) as error:
        raise InputError(f"{file}: not a safetensors file ({error}); fetch the model again") from None
    header.pop("__metadata__", None)
    base = 8 + length
    tensors = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        info = TensorInfo(entry["dtype"], tuple(entry["shape"]), file, base + start, base + end)
        if info.end > size:
            raise InputError(f"{file}: truncated at tensor {name}; fetch the model again")
        tensors[name] = info
    return tensors


def load(info: TensorInfo, name: str) -> "torch.Tensor":
    """Return one tensor, read from its file's memory map."""
    from safetensors import safe_open

    with safe_open(info.file, framework="pt") as reader:
        return reader.get_tensor(name)


class ShardWriter:
    """Write a checkpoint's tensors into shards, each tensor once and in the order of `layout`.

    Files and tensors are hashed while they are written, so that naming the checkpoint, and stating what is in it,
    needs no second reading.

    Args:
        folder: an existing folder; receives `model.safetensors`, or shards and their index.
        layout: safetensors type and shape of every tensor, in the order they will be written.
        max_shard_bytes: a shard is closed before it would grow beyond this.
    """

    def __init__(
        self,
        folder: Path,
        layout: Mapping[str, tuple[str, tuple[int, ...]]],
        *,
        max_shard_bytes: int = 5 * 10**9,
    ) -> None:
        self._folder = folder
        self._shards = _plan_shards(layout, max_shard_bytes)
        self._order = [(name, i) for i, shard in enumerate(self._shards) for name in shard]
        self._next = 0
        self._file: _HashedFile | None = None
        self._open = -1
        # Complete after the `with` block: SHA-256 by file name, and by file name and tensor.
        self.digests: dict[str, str] = {}
        self.tensor_digests: dict[str, dict[str, str]] = {}

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        if kind is None:
            self._finish()

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors together."""
        return sum(self.size_of(name) for name, _ in self._order)

    def size_of(self, name: str) -> int:
        """Return the bytes of one tensor."""
        entry = next(shard[name] for shard in self._shards if name in shard)
        begin, end = entry["data_offsets"]
        return int(end - begin)

    def copy(self, name: str, source: TensorInfo) -> None:
        """Copy a tensor's bytes as they are, under a new name."""
        file = self._at(name, source.nbytes)
        with source.file.open("rb", buffering=0) as reader:
            reader.seek(source.start)
            left = source.nbytes
            while left:
                chunk = reader.read(min(left, _COPY_CHUNK))
                if not chunk:
                    raise InputError(f"{source.file}: truncated while copying {name}; fetch the model again")
                file.write(chunk)
                left -= len(chunk)

    def put(self, name: str, tensor: "torch.Tensor") -> None:
        """Write a tensor that was computed."""
        import torch

        data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        self._at(name, data.nbytes).write(data.data)

    def put_pieces(self, name: str, pieces: Iterable[memoryview]) -> None:
        """Write a tensor that comes in pieces, in order; a piece must not change afterwards."""
        left = self.size_of(name)
        file = self._at(name, left)
        for chunk in _gathered(pieces):
            left -= chunk.nbytes
            file.write(chunk)
        if left:
            raise ValueError(f"{name}: {left} bytes of the layout were not written")

    def _at(self, name: str, nbytes: int) -> "_HashedFile":
        expected, shard = self._order[self._next]
        entry = self._shards[shard][expected]
        begin, end = entry["data_offsets"]
        if name != expected or nbytes != end - begin:
            raise ValueError(f"layout expects {expected} ({end - begin} bytes), got {name} ({nbytes} bytes)")
        self._next += 1
        if shard != self._open:
            self._start(shard)
        assert self._file is not None
        self._file.begin(name)
        return self._file

    def _start(self, shard: int) -> None:
        self._close()
        header = {"__metadata__": {"format": "pt"}, **self._shards[shard]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._file = _HashedFile(self._folder / self._file_name(shard))
        self._file.write(struct.pack("<Q", len(text)) + text)
        self._open = shard

    def _close(self) -> None:
        if self._file:
            name = self._file.path.name
            self.digests[name], self.tensor_digests[name] = self._file.close()
            self._file = None

    def _file_name(self, shard: int) -> str:
        total = len(self._shards)
        return SINGLE if total == 1 else f"model-{shard + 1:05d}-of-{total:05d}.safetensors"

    def _finish(self) -> None:
        if self._next != len(self._order):
            raise ValueError(f"{len(self._order) - self._next} tensors of the layout were never written")
        if len(self._shards) > 1:
            total = sum(entry["data_offsets"][1] for shard in self._shards for entry in [_last(shard)])
            weight_map = {name: self._file_name(shard) for name, shard in self._order}
            write_json(self._folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


class _HashedFile:
    """A file that other threads hash, as a whole and tensor by tensor, while this one writes.

    Only a few chunks wait in between.
    """

    _WAITING = 4

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream: IO[bytes] = path.open("wb", buffering=0)
        self._hash = sha256()
        self._parts: dict[str, Any] = {}
        self._part: Any = None
        # One thread each: hashing one thing is a chain of updates.
        self._pools = [ThreadPoolExecutor(max_workers=1, thread_name_prefix="sha256") for _ in range(2)]
        self._pending: deque[Future[None]] = deque()

    def begin(self, name: str) -> None:
        """Say that what is written from here on is a tensor."""
        self._part = self._parts[name] = sha256()

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes; they must not change afterwards."""
        self._pending.append(self._pools[0].submit(self._hash.update, data))
        if self._part is not None:
            self._pending.append(self._pools[1].submit(self._part.update, data))
        view = memoryview(data).cast("B")
        while view:
            view = view[self._stream.write(view) :]
        while len(self._pending) > len(self._pools) * self._WAITING:
            self._pending.popleft().result()

    def close(self) -> tuple[str, dict[str, str]]:
        """Close the file; return its SHA-256 and those of its tensors, in hexadecimal."""
        self._stream.close()
        for pool in self._pools:
            pool.shutdown()
        for one in self._pending:
            one.result()
        return self._hash.hexdigest(), {name: one.hexdigest() for name, one in self._parts.items()}


def _gathered(pieces: Iterable[memoryview]) -> Iterator[memoryview]:
    waiting: list[memoryview] = []
    size = 0
    for piece in pieces:
        waiting.append(piece.cast("B"))
        size += piece.nbytes
        if size >= _GATHERED:
            yield _joined(waiting)
            waiting, size = [], 0
    if waiting:
        yield _joined(waiting)


def _joined(pieces: list[memoryview]) -> memoryview:
    return pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))


def _last(shard: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return list(shard.values())[-1]


def _plan_shards(
    layout: Mapping[str, tuple[str, tuple[int, ...]]], max_shard_bytes: int
) -> list[dict[str, dict[str, Any]]]:
    shards: list[dict[str, dict[str, Any]]] = [{}]
    offset = 0
    for name, (dtype, shape) in layout.items():
        if dtype not in _BITS:
            raise InputError(f"tensor {name}: the type {dtype} is not supported")
        size = math.prod(shape) * _BITS[dtype] // 8
        if offset and offset + size > max_shard_bytes:
            shards.append({})
            offset = 0
        shards[-1][name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    return shards
