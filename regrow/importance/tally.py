"""The sums that a measurement keeps: small, in float64, and the same for every way through the model."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.anatomy import Anatomy, Widths
from regrow.files import atomic_file
from regrow.importance.calibration import Batch
from regrow.importance.scores import Matrix, WidthScores

if TYPE_CHECKING:
    import torch

# Numbers of a stack of states that are compared at once (float64): 8 MiB, which a cache holds.
_CHUNK = 2**20


class Tally:
    """Running sums over the calibration set.

    Angles need float64: near a cosine of 1, where neighbouring blocks are, arccos of a float32 is only good to
    2e-4. Cosines are clamped to [-1, 1] before it.

    Args:
        depth: blocks of the model.
        widths: its units of width; None leaves width out.
        all_tokens: whether angles are also summed over all tokens.
        skip_first: leading tokens that sums over tokens leave out.
    """

    def __init__(self, depth: int, widths: Widths | None, *, all_tokens: bool, skip_first: int) -> None:
        import torch

        def zeros(*shape: int) -> "torch.Tensor":
            return torch.zeros(*shape, dtype=torch.float64)

        self.skip_first = skip_first
        # [i][j]: summed arccos/pi between the states before block i and before block j.
        self._sums = {"angles": zeros(depth + 1, depth + 1), "cosines": zeros(depth), "counts": zeros(3)}
        if all_tokens:
            self._sums["angles_all"] = zeros(depth + 1, depth + 1)
        if widths:
            self._sums["neurons"] = zeros(depth, widths.neurons)
            self._sums["groups"] = zeros(depth, widths.groups)
            self._sums["attention_in"] = zeros(depth, widths.channels)
            self._sums["mlp_in"] = zeros(depth, widths.channels)
        self._groups = widths.groups if widths else 0
        self._sized: tuple[torch.Tensor, torch.Tensor] | None = None  # the last state, and its norms

    @property
    def all_tokens(self) -> bool:
        """Whether angles are summed over all tokens, too."""
        return "angles_all" in self._sums

    def text(self, batch: Batch) -> None:
        """Count a batch's texts and tokens, once."""
        counted = int(batch.counted(self.skip_first).sum())
        self._sums["counts"] += _vector(len(batch.ids), int(batch.mask.sum()), counted)

    def block(self, block: int, before: "torch.Tensor", after: "torch.Tensor", batch: Batch) -> None:
        """Add a block's input and output, (texts, longest, d)."""
        import torch

        # The output of a block is mostly the input of the next one, whose norm is then known.
        size_before = self._size_of(before)
        dot = torch.linalg.vecdot(before.float(), after.float())
        cosine = dot / (size_before * self._size_of(after)).clamp(min=1e-30)
        counted = batch.counted(self.skip_first)
        self._sums["cosines"][block] += cosine.double()[counted].sum().cpu()

    def _size_of(self, state: "torch.Tensor") -> "torch.Tensor":
        """Return the norm of every token's state, (texts, longest)."""
        if self._sized is None or self._sized[0] is not state:
            self._sized = (state, state.float().norm(dim=-1))
        return self._sized[1]

    def last_tokens(self, states: "torch.Tensor") -> None:
        """Add the states of last tokens between all blocks, (depth + 1, texts, d)."""
        self._sums["angles"] += _angles(states)

    def every_token(self, states: "list[torch.Tensor]", batch: Batch) -> None:
        """Add the states of a batch between all blocks: depth + 1 of (texts, longest, d)."""
        import torch

        counted = batch.counted(self.skip_first)
        rows = max(1, _CHUNK // (len(states) * states[0].shape[-1]))
        flat = [state[counted] for state in states]
        for i in range(0, len(flat[0]), rows):
            self._sums["angles_all"] += _angles(torch.stack([state[i : i + rows] for state in flat]))

    def units(self, kind: str, block: int, values: "torch.Tensor", batch: Batch) -> None:
        """Add what goes into one of a block's linear layers, (texts, longest, units).

        For each text the mean magnitude over its tokens is squared and added up. Groups are units of several
        values: their magnitude is the norm of them.
        """
        import torch

        weight = batch.counted(self.skip_first).float()
        weight = weight / weight.sum(dim=1, keepdim=True)
        if kind == "groups":
            magnitude = values.float().reshape(*values.shape[:2], self._groups, -1).norm(dim=-1)
        else:
            magnitude = values.float().abs_() if values.dtype != torch.float32 else values.abs()
        means = torch.bmm(weight.unsqueeze(1), magnitude).squeeze(1)
        self._sums[kind][block] += means.double().square().sum(dim=0).cpu()

    def hooks(
        self, number: int, block: "torch.nn.Module", anatomy: Anatomy | None, batch: Batch
    ) -> "list[torch.utils.hooks.RemovableHandle]":
        """Hook a block's linear layers so that what goes into them is added; none without width."""
        if anatomy is None or "neurons" not in self._sums:
            return []
        modules = {
            "attention_in": anatomy.attention_in,
            "groups": anatomy.attention_out,
            "mlp_in": anatomy.mlp_in,
            "neurons": anatomy.mlp_out,
        }

        def hook(kind: str) -> Callable[[Any, tuple["torch.Tensor", ...]], None]:
            return lambda _, args: self.units(kind, number, args[0], batch)

        return [
            block.get_submodule(name).register_forward_pre_hook(hook(kind)) for kind, name in modules.items()
        ]

    def is_finite(self) -> bool:
        """Return whether every sum is a finite number."""
        return all(bool(total.isfinite().all()) for total in self._sums.values())

    def matrix(self, *, all_tokens: bool = False) -> Matrix:
        """Return the mean angular distance by [size - 1][start]."""
        samples, _, counted = self._sums["counts"].tolist()
        sums = self._sums["angles_all"] / counted if all_tokens else self._sums["angles"] / samples
        mean = sums.tolist()
        depth = len(mean) - 1
        return [
            [mean[start][start + size] if start + size <= depth else None for start in range(depth)]
            for size in range(1, depth + 1)
        ]

    def influence(self) -> list[float]:
        """Return Block Influence of every block."""
        influence: list[float] = (1 - self._sums["cosines"] / self._sums["counts"][2]).tolist()
        return influence

    def width(self) -> WidthScores | None:
        """Return the scores of units of width; None if they were left out."""
        if "neurons" not in self._sums:
            return None
        roots = {name: total.sqrt() for name, total in self._sums.items()}
        return WidthScores(
            neurons=_rounded(roots["neurons"]),
            groups=_rounded(roots["groups"]),
            channels_by_block=_rounded(roots["attention_in"] + roots["mlp_in"]),
        )

    @property
    def samples(self) -> int:
        """Texts so far."""
        return int(self._sums["counts"][0])

    @property
    def tokens(self) -> int:
        """Tokens so far, without padding."""
        return int(self._sums["counts"][1])

    def save(self, path: Path, done: int) -> None:
        """Write the sums, and of how many parts of the work they are, atomically."""
        from safetensors.torch import save_file

        with atomic_file(path) as scratch:
            save_file(self._sums | {"done": _vector(done)}, scratch)

    def restore(self, path: Path) -> int:
        """Take the sums that `save` wrote, and return of how many parts they are."""
        from safetensors.torch import load_file

        self._sums = load_file(path)
        return int(self._sums.pop("done")[0])


def _vector(*values: int) -> "torch.Tensor":
    import torch

    return torch.tensor(values, dtype=torch.float64)


def _angles(states: "torch.Tensor") -> "torch.Tensor":
    """Return arccos(cosine)/pi summed over tokens, (n, n), from states (n, tokens, d)."""
    import torch

    unit = torch.nn.functional.normalize(states.double(), dim=-1).transpose(0, 1)  # (tokens, n, d)
    cosine = (unit @ unit.transpose(1, 2)).clamp(-1, 1)
    return (torch.arccos(cosine) / torch.pi).sum(dim=0).cpu()


def _rounded(scores: "torch.Tensor") -> list[list[float]]:
    """Return scores with seven digits: more would be noise, and make a file of megabytes."""
    return [[float(f"{value:.7g}") for value in row] for row in scores.tolist()]
