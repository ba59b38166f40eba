"""The arithmetic of each method, on float32 arrays that come in pieces.

A mixer sees the pieces of one tensor of all models, in order, as often as it needs to (`looks`), and then gives the
merged pieces. So no tensor has to be in memory whole, not even where a method needs to know all of it first:
SLERP its angle, TIES the size of the entries that it keeps.

Sources: SLERP after Shoemake (SIGGRAPH 1985), with mergekit's conventions; weighted sums ("model soups",
arXiv 2203.05482); task arithmetic, arXiv 2212.04089; TIES, arXiv 2306.01708; DARE, arXiv 2311.03099.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from typing import Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
# The pieces of every model at one place, and the parent's where there is one.
Piece = tuple[Sequence[Array], Array | None]
Pieces = Callable[[], Iterable[Piece]]

# SLERP: beyond this cosine (an angle of 0.032 rad) the arc is taken for a line (mergekit's convention).
PARALLEL = 0.9995
# nuslerp: an arc this flat is the line to within float64's accuracy, and its formula would divide by nothing.
EXACTLY_PARALLEL = 1 - 1e-12
# Pieces hold an even number of entries, but for the last: Drop takes its random numbers in pairs.
_LOW_BITS = 16


class Mixer(Protocol):
    """One tensor's merge."""

    @property
    def looks(self) -> int:
        """How often all pieces are shown before the result is asked for."""

    def look(self, parts: Sequence[Array], base: Array | None) -> None:
        """See one piece."""

    def turn(self) -> None:
        """All pieces were shown once more."""

    def mix(self, parts: Sequence[Array], base: Array | None) -> Array:
        """Return one merged piece, in an array of its own."""


def study(mixer: Mixer, pieces: Pieces) -> None:
    """Show a fresh mixer the pieces as often as it needs before it can mix.

    Args:
        mixer: what will merge the tensor.
        pieces: returns the tensor's pieces in order, each time anew.
    """
    for _ in range(mixer.looks):
        for parts, base in pieces():
            mixer.look(parts, base)
        mixer.turn()


def whole(mixer: Mixer, tensors: Sequence[Array], base: Array | None = None) -> Array:
    """Return the merge of tensors that are in memory, of one shape."""
    flat = [tensor.reshape(-1) for tensor in tensors], None if base is None else base.reshape(-1)
    study(mixer, lambda: [flat])
    return mixer.mix(*flat).reshape(tensors[0].shape)


class Sum:
    """A weighted sum of the models, by `divisor`; a step of it is rounded once, as a fused multiply-add is."""

    looks = 0

    def __init__(self, weights: Sequence[float], divisor: float = 1.0) -> None:
        self._weights = [float(np.float32(weight)) for weight in weights]
        self._divisor = np.float32(divisor)

    def look(self, parts: Sequence[Array], base: Array | None) -> None:
        """See nothing."""

    def turn(self) -> None:
        """Wait for nothing."""

    def mix(self, parts: Sequence[Array], base: Array | None) -> Array:
        """Return one merged piece."""
        total = np.zeros_like(parts[0])
        for part, weight in zip(parts, self._weights, strict=True):
            total = (part.astype(np.float64) * weight + total).astype(np.float32)
        if self._divisor != 1:
            total /= self._divisor
        return total


class Arc:
    """SLERP: each tensor is one vector, and the result lies on the arc from the first to the second.

    `sin((1-t) w) / sin(w) a + sin(t w) / sin(w) b`, where w is the angle between a and b; a and b keep their lengths.
    On nearly (anti-)parallel vectors and on zero vectors the line `(1-t) a + t b` is taken. Of more than two, the
    result so far meets the k-th at t = 1/k, so that on a line all weigh the same. With a base, the vectors are
    what the models differ from it by.

    The angle comes from products summed in float64, and the sum is taken in float64 and rounded once: summed in
    float32, the norms of a matrix of a million entries are wrong in the fifth digit.

    Args:
        t: between 0 and 1; None of more than two.
        parallel: the cosine beyond which the line is taken.
    """

    looks = 1

    def __init__(self, t: float | None, *, parallel: float = PARALLEL) -> None:
        self.factors: tuple[float, ...] = ()
        self._t = t
        self._parallel = parallel
        self._products: npt.NDArray[np.float64] | None = None
        self.angle = 0.0  # radians; the largest of a fold's
        self.linear = True  # whether all was done on lines
        self.finite = True  # False where a model has entries that are not numbers
        self._scratch: list[npt.NDArray[np.float64]] = []

    def look(self, parts: Sequence[Array], base: Array | None) -> None:
        """Add one piece's inner products."""
        vectors, _ = self._vectors(parts, base)
        if self._products is None:
            self._products = np.zeros((len(parts), len(parts)))
        for i, one in enumerate(vectors):
            for j in range(i, len(vectors)):
                # Not BLAS: its threads fight with others for the cores over vectors this short, and the last
                # digits of its sums depend on how many there are.
                self._products[i, j] += np.einsum("i,i->", one, vectors[j])

    def turn(self) -> None:
        """Find the factors."""
        assert self._products is not None
        products = np.triu(self._products) + np.triu(self._products, 1).T
        self.finite = bool(np.isfinite(products).all())
        count = len(products)
        factors = np.zeros(count)
        factors[0] = 1
        for k in range(1, count):
            t = 1 / (k + 1) if self._t is None else self._t
            there = np.zeros(count)
            there[k] = 1
            first, second = self._step(factors, there, products, t)
            factors = first * factors + second * there
        self.factors = tuple(factors.tolist())

    def mix(self, parts: Sequence[Array], base: Array | None) -> Array:
        """Return one merged piece."""
        vectors, origin = self._vectors(parts, base)
        for vector, factor in zip(vectors, self.factors, strict=True):
            vector *= factor
        total, *others = vectors if origin is None else [origin, *vectors]
        for vector in others:
            total += vector
        return total.astype(np.float32)

    def _vectors(
        self, parts: Sequence[Array], base: Array | None
    ) -> tuple[list[npt.NDArray[np.float64]], npt.NDArray[np.float64] | None]:
        """Return the models, or what they differ from the base by, and the base, in float64, until the next call."""
        sources = [*parts] if base is None else [*parts, base]
        count = len(parts[0])
        if not self._scratch or self._scratch[0].size < count:
            self._scratch = [np.empty(count) for _ in sources]
        wide = [scratch[:count] for scratch in self._scratch]
        for vector, source in zip(wide, sources, strict=True):
            np.copyto(vector, source)
        if base is None:
            return wide, None
        *vectors, origin = wide
        for vector in vectors:
            vector -= origin
        return vectors, origin

    def _step(
        self,
        a: npt.NDArray[np.float64],
        b: npt.NDArray[np.float64],
        products: npt.NDArray[np.float64],
        t: float,
    ) -> tuple[float, float]:
        """Return the factors of two vectors that are given as sums of the models."""
        aa, bb, ab = (
            max(0.0, float(a @ products @ a)),
            max(0.0, float(b @ products @ b)),
            float(a @ products @ b),
        )
        if not (aa > 0 and bb > 0 and self.finite):
            return 1 - t, t
        cosine = max(-1.0, min(1.0, ab / math.sqrt(aa * bb)))
        # Half the angle, from the chord: arccos loses half of the digits near 1.
        chord = max(0.0, aa + bb - 2 * ab) - (math.sqrt(aa) - math.sqrt(bb)) ** 2
        half = math.sqrt(max(0.0, min(1.0, chord / (4 * math.sqrt(aa * bb)))))
        angle = 2 * math.asin(half) if cosine > 0 else math.acos(cosine)
        self.angle = max(self.angle, angle)
        if abs(cosine) > self._parallel:
            return 1 - t, t
        self.linear = False
        return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


class Whole:
    """A task vector as it is."""

    looks = 0

    def look(self, delta: Array) -> None:
        """See nothing."""

    def turn(self) -> None:
        """Wait for nothing."""

    def thin(self, delta: Array) -> Array:
        """Return the piece."""
        return delta


class Trim(Whole):
    """TIES' trimming: the entries of largest magnitude stay, as many as `density` says and at least one.

    Of equal entries at the limit those that come first stay. The limit is found exactly, from two counts of the
    magnitudes' bits, whose order is that of the magnitudes.

    Args:
        density: share of the entries that stay.
        count: number of entries of the tensor.
    """

    looks = 2

    def __init__(self, density: float, count: int) -> None:
        self._wanted = min(max(1, int(density * count)), count)
        self._high: int | None = None
        self._limit: int | None = None
        self._counts = np.zeros(1 << (32 - _LOW_BITS - 1), np.int64)
        self._uncounted: list[npt.NDArray[np.integer]] = []
        self._equal = self._left = 0

    def look(self, delta: Array) -> None:
        """Count magnitudes: first by their high bits, then by the low ones within the bin that holds the limit."""
        bits = _magnitudes(delta)
        if self._high is None:
            found = bits >> _LOW_BITS
        else:
            found = bits[bits >> _LOW_BITS == self._high] & ((1 << _LOW_BITS) - 1)
        self._uncounted.append(found)
        if sum(map(len, self._uncounted)) > 4 * len(self._counts):
            self._count()

    def turn(self) -> None:
        """Find the bin of the limit, then the limit."""
        self._count()
        from_above = np.cumsum(self._counts[::-1])
        steps = int(np.searchsorted(from_above, self._wanted))
        place = len(self._counts) - 1 - steps
        above = int(from_above[steps - 1]) if steps else 0
        self._wanted -= above  # how many of this bin stay
        if self._high is None:
            self._high = place
            self._counts = np.zeros(1 << _LOW_BITS, np.int64)
        else:
            self._limit = self._high << _LOW_BITS | place
            self._equal, self._left = int(self._counts[place]), self._wanted

    def _count(self) -> None:
        """Count what was gathered: adding up all bins for each small piece would take longer than counting it."""
        if self._uncounted:
            self._counts += np.bincount(np.concatenate(self._uncounted), minlength=len(self._counts))
            self._uncounted = []

    def thin(self, delta: Array) -> Array:
        """Return the piece without its small entries."""
        assert self._limit is not None
        bits = _magnitudes(delta)
        if self._left == self._equal:
            return np.where(bits >= self._limit, delta, np.float32(0))
        stay = bits > self._limit
        equal = np.flatnonzero(bits == self._limit)[: self._left]
        stay[equal] = True
        self._left -= len(equal)
        self._equal = -1  # some were left out: go on counting
        return np.where(stay, delta, np.float32(0))


class Drop(Whole):
    """DARE: every entry stays with the probability `density`, divided by it, so that the expectation is the same.

    Which entries stay depends on the seed, the tensor's name and the model's place in the list, and on nothing
    else: not on the order of tensors, nor on the size of the pieces.
    """

    def __init__(self, density: float, seed: int, name: str, model: int) -> None:
        key = sha256(f"{seed}\n{name}\n{model}".encode()).digest()
        self._bits = np.random.PCG64(int.from_bytes(key, "little"))
        self._density = density

    def thin(self, delta: Array) -> Array:
        """Return the piece with some entries dropped."""
        # Raw words, not floats: NumPy promises to keep their stream.
        words = self._bits.random_raw((len(delta) + 1) // 2).view(np.uint32)[: len(delta)]
        stay = words < np.uint32(min(round(self._density * 2**32), 2**32 - 1))
        return np.where(stay, delta / np.float32(self._density), np.float32(0))


class TaskVectors:
    """What the models differ from their parent by, thinned out, weighted, and added to it.

    With `elect`, an entry's sign is that of the weighted sum of the task vectors, and only those of that sign
    count (TIES). `normalize` divides by the sum of the weights that count.

    Args:
        weights: one for each model.
        thinned: what each task vector loses.
        elect: whether signs are elected.
        normalize: whether to divide by the weights.
        scale: factor on the combined vector.
    """

    def __init__(
        self,
        weights: Sequence[float],
        thinned: Sequence[Whole],
        *,
        elect: bool,
        normalize: bool,
        scale: float,
    ) -> None:
        self.looks = max(one.looks for one in thinned)
        self._weights = [np.float32(weight) for weight in weights]
        self._thinned = thinned
        self._elect, self._normalize, self._scale = elect, normalize, np.float32(scale)

    def look(self, parts: Sequence[Array], base: Array | None) -> None:
        """Show the task vectors to those who have to see them."""
        assert base is not None
        for part, one in zip(parts, self._thinned, strict=True):
            if one.looks:
                one.look(part - base)

    def turn(self) -> None:
        """Let them find what they looked for."""
        for one in self._thinned:
            if one.looks:
                one.turn()

    def mix(self, parts: Sequence[Array], base: Array | None) -> Array:
        """Return one merged piece."""
        assert base is not None
        vectors = [
            one.thin(part - base) * weight
            for part, one, weight in zip(parts, self._thinned, self._weights, strict=True)
        ]
        total: Array = sum(vectors[1:], start=vectors[0])
        divisor: Array | np.float32
        if self._elect:
            positive = total >= 0
            total = np.zeros_like(base)
            divisor = np.zeros_like(base)
            for vector, weight in zip(vectors, self._weights, strict=True):
                agrees = np.where(positive, vector > 0, vector < 0)
                total += np.where(agrees, vector, np.float32(0))
                divisor += agrees * weight
            divisor[divisor == 0] = 1
        else:
            divisor = np.float32(sum(self._weights))
        if self._normalize:
            total = total / divisor
        merged: Array = base + total * self._scale
        return merged


def _magnitudes(delta: Array) -> npt.NDArray[np.uint32]:
    """Return the bits of the magnitudes, which are ordered as these are."""
    return delta.view(np.uint32) & np.uint32(0x7FFFFFFF)
