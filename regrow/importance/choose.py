"""From scores to a choice: which blocks, which neurons, which groups, which channels."""

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from regrow.errors import InputError

if TYPE_CHECKING:
    from regrow.importance.scores import LayerImportance

Criterion = Literal[
    "angular_distance",
    "angular_distance_all_tokens",
    "block_influence",
    "perplexity",
    "task",
    "greedy",
    "reverse",
    "random",
]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)
# What each needs, for messages; those that are missing need no measurement.
_NEEDS = {
    "angular_distance_all_tokens": "importance.all_tokens",
    "perplexity": "importance.search with the criterion perplexity",
    "task": "importance.search with the criterion task",
    "greedy": "importance.search with the criterion greedy",
}


class Choice(NamedTuple):
    """Blocks to remove, in order, and the criterion's value for them (None where it has none)."""

    removed: tuple[int, ...]
    score: float | None


def choose_blocks(
    importance: "LayerImportance | None", depth: int, criterion: Criterion, size: int, seed: int = 0
) -> Choice:
    """Choose `size` of `depth` blocks to remove.

    - angular_distance, angular_distance_all_tokens: the run over which the hidden state turns least at the last
      token, or at all tokens (Gromov et al., arXiv 2403.17887);
    - block_influence: the blocks of least influence, one by one (ShortGPT, arXiv 2403.03853);
    - perplexity, task: the run without which the model's perplexity is lowest, or its score on a task
      highest (Minitron, arXiv 2408.11796);
    - greedy: one block after the other, each time the one whose loss is least (SLEB, arXiv 2402.09025);
    - reverse: the last blocks but never the very last (Gromov et al., section 4);
    - random: a seeded run, to see what a choice is worth.

    Raises:
        InputError: a size that does not fit, or a criterion that was not measured.
    """
    limit = depth - 2 if criterion == "reverse" else depth - 1
    if not 0 < size <= limit:
        raise InputError(
            f"prune.blocks: {size} of {depth} blocks cannot be removed by {criterion}; choose 1 to {limit}"
        )
    if criterion == "reverse":
        return Choice(tuple(range(depth - 1 - size, depth - 1)), None)
    if criterion == "random":
        start = random.Random(seed).randrange(depth - size + 1)  # noqa: S311 - no secret, a seeded baseline
        return Choice(tuple(range(start, start + size)), None)
    if importance is None:
        raise InputError(f"prune.criterion: {criterion} needs a measurement of importance")
    if criterion == "block_influence":
        order = sorted(range(depth), key=lambda block: (importance.block_influence[block], block))
        gone = tuple(sorted(order[:size]))
        return Choice(gone, sum(importance.block_influence[block] for block in gone))
    if criterion == "greedy":
        if importance.search is None or len(importance.search.greedy) < size:
            raise _missing(criterion, size)
        return Choice(
            tuple(sorted(importance.search.greedy[:size])), importance.search.greedy_perplexity[size - 1]
        )
    row = _row(importance, criterion, size)
    if row is None:
        raise _missing(criterion, size)
    # Of equals the later run: early blocks are the ones that models can spare least.
    sign = -1 if criterion == "task" else 1
    score, start = min((sign * value, -start) for start, value in enumerate(row) if value is not None)
    return Choice(tuple(range(-start, -start + size)), sign * score)


def _row(importance: "LayerImportance", criterion: Criterion, size: int) -> Sequence[float | None] | None:
    if criterion == "angular_distance":
        return importance.angular_distance[size - 1]
    if criterion == "angular_distance_all_tokens":
        matrix = importance.angular_distance_all_tokens
        return matrix[size - 1] if matrix else None
    if importance.search is None:
        return None
    scores = importance.search.perplexity if criterion == "perplexity" else importance.search.task
    return scores.get(size)


def _missing(criterion: Criterion, size: int) -> InputError:
    return InputError(
        f"prune.criterion: {criterion} for {size} blocks was not measured; it needs {_NEEDS[criterion]}, "
        f"and size {size} among its sizes"
        if criterion != "angular_distance_all_tokens"
        else f"prune.criterion: {criterion} was not measured; set {_NEEDS[criterion]}"
    )


def top_units(scores: Sequence[float], count: int) -> tuple[int, ...]:
    """Return the numbers of the `count` highest scores, in order; of equals the first."""
    order = sorted(range(len(scores)), key=lambda unit: (-scores[unit], unit))
    return tuple(sorted(order[:count]))
