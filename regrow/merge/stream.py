"""Tensors as float32 pieces from disk, and back into the type that is stored.

NumPy has no bfloat16 and needs none: its bits are the upper half of a float32's. Without torch a merge of a small
model is done before torch would have been imported.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from regrow.errors import InputError
from regrow.merge.methods import Array
from regrow.tensors import TensorInfo

# Entries of a piece: what a core's cache holds of a few models in float64, and so many that a call of NumPy's is
# worth its overhead. Even, as regrow.merge.methods asks for.
PIECE = 2**15
# Entries that are read at once.
_READ = 2**17
# Bytes an entry takes, by the safetensors type, of those that are merged.
_WIDTH: Mapping[str, int] = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8}
FLOATS = tuple(_WIDTH)
_STORED: Mapping[str, str] = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}


class Reader:
    """Reads pieces of tensors; keeps the files open until its `with` block ends."""

    def __init__(self) -> None:
        self._files: dict[Path, int] = {}
        self._buffers: list[bytearray] = []
        self._floats: list[Array] = []
        self._stack = ExitStack()

    def __enter__(self) -> "Reader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def pieces(self, infos: list[TensorInfo]) -> Iterator[list[Array]]:
        """Yield the pieces of tensors of one shape side by side; each is overwritten when a later one is asked for."""
        count = infos[0].count
        while len(self._buffers) < len(infos):
            self._buffers.append(bytearray(_READ * max(_WIDTH.values())))
            self._floats.append(np.empty(PIECE, np.float32))
        for start in range(0, count, _READ):
            stop = min(start + _READ, count)
            stored = [
                (self._read(info, start, stop, buffer), _WIDTH[info.dtype], info.dtype)
                for info, buffer in zip(infos, self._buffers, strict=False)
            ]
            for first in range(0, stop - start, PIECE):
                yield [
                    decode(data[first * width : (first + PIECE) * width], dtype, floats)
                    for (data, width, dtype), floats in zip(stored, self._floats, strict=False)
                ]

    def _read(self, info: TensorInfo, start: int, stop: int, buffer: bytearray) -> memoryview:
        width = _WIDTH[info.dtype]
        wanted = memoryview(buffer)[: (stop - start) * width]
        if os.preadv(self._open(info.file), [wanted], info.start + start * width) != len(wanted):
            raise InputError(f"{info.file}: truncated; fetch the model again")
        return wanted

    def _open(self, file: Path) -> int:
        if file not in self._files:
            self._files[file] = self._stack.enter_context(file.open("rb", buffering=0)).fileno()
        return self._files[file]


def decode(data: bytes | memoryview, dtype: str, scratch: Array | None = None) -> Array:
    """Return stored entries as float32; only float64 is rounded.

    Args:
        data: the entries' bytes.
        dtype: their safetensors type.
        scratch: where they go, if they have to be converted; it may be longer.
    """
    stored = np.frombuffer(data, _STORED[dtype])
    if dtype == "F32":
        return stored
    values = np.empty(len(stored), np.float32) if scratch is None else scratch[: len(stored)]
    if dtype == "BF16":
        bits = values.view(np.uint32)
        np.copyto(bits, stored)
        np.left_shift(bits, 16, out=bits)
    else:
        np.copyto(values, stored, casting="same_kind")
    return values


def encode(values: Array, dtype: str) -> npt.NDArray[np.generic]:
    """Return float32 values rounded to the nearest of a stored type (ties to even).

    Raises:
        InputError: a value is beyond float16's range.
    """
    if dtype == "F32":
        return values
    if dtype == "F64":
        return values.astype("<f8")
    if dtype == "F16":
        try:
            with np.errstate(over="raise"):
                return values.astype("<f2")
        except FloatingPointError:
            raise InputError(
                f"a merged weight of size {np.abs(values).max():.3g} does not fit into float16 (65504); "
                "save as bfloat16 or float32 (dtype)"
            ) from None
    bits = values.view(np.uint32)
    rounded = bits >> 16
    rounded &= 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    if values.size and np.isnan(values.max()):  # rounding could carry a NaN's digits into infinity
        missing = np.isnan(values)
        rounded[missing] = (bits[missing] >> 16) | 0x40
    return rounded.astype("<u2")
