"""What this machine computes on, and in which type it is fast."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def device() -> str:
    """Return "cuda" where there is a usable GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def compute_dtype(stored: "torch.dtype", where: str | None = None) -> "torch.dtype":
    """Return the type to compute in for weights stored in `stored`.

    Half-precision types are used where the hardware multiplies in them. A CPU without AMX or AVX-512 BF16
    emulates them, ten times slower than float32 (measured: 18 against 170 tokens/s on one AVX2 machine), so
    there the answer is float32.
    """
    import torch

    if stored.itemsize >= 4:
        return stored
    if (where or device()) == "cuda":
        return torch.float16 if stored == torch.bfloat16 and not torch.cuda.is_bf16_supported() else stored
    native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native else torch.float32


def free_memory() -> int:
    """Return the bytes that a model may take: free on the GPU where there is one, else available to processes."""
    import psutil
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    return int(psutil.virtual_memory().available)
