"""Criteria that leave blocks out and look what happens.

Perplexity of the calibration texts without each run of blocks, score of a task without each run (Minitron,
arXiv 2408.11796), and greedy removal of one block after the other (SLEB, arXiv 2402.09025). The blocks before
a removed one see what they always see, so their states are computed once and every trial starts behind them.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from regrow.anatomy import decoder_blocks
from regrow.checkpoint import Checkpoint
from regrow.errors import InputError
from regrow.importance.calibration import Batch
from regrow.importance.progress import Progress
from regrow.importance.scores import SearchScores
from regrow.importance.spec import ImportanceSpec, SearchSpec
from regrow.importance.standins import resume, skip, standing_in

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def check_sizes(wanted: SearchSpec, depth: int) -> None:
    """Refuse numbers of blocks that the model does not have to spare.

    Raises:
        InputError: a size that does not fit.
    """
    if max(wanted.sizes) >= depth:
        raise InputError(
            f"importance.search.sizes: {max(wanted.sizes)} of {depth} blocks cannot be left out; "
            f"choose 1 to {depth - 1}"
        )


def search(
    model: "PreTrainedModel",
    checkpoint: Checkpoint,
    loaded: list[Batch],
    spec: ImportanceSpec,
    progress: Progress,
) -> SearchScores:
    """Run every criterion of `spec.search`; each continues where it was interrupted.

    Raises:
        InputError: a task that cannot be run.
    """
    import torch

    wanted = spec.search
    assert wanted is not None
    depth = checkpoint.blocks
    trials = _Trials(model, depth, _first(loaded, wanted.texts))
    found: dict[str, Any] = {}
    with torch.inference_mode():
        found["intact"] = trials.perplexity(())
        if "perplexity" in wanted.criteria:
            found["perplexity"] = _runs(trials, wanted.sizes, depth, progress)
        if "greedy" in wanted.criteria:
            found["greedy"], found["greedy_perplexity"] = _greedy(trials, max(wanted.sizes), depth, progress)
    if "task" in wanted.criteria:
        assert wanted.task is not None
        found["task"] = _task(model, checkpoint, wanted, spec.batch_size, progress)
        found["task_name"] = wanted.task.name
    return SearchScores(**found)


class _Trials:
    """A model and texts, on which the loss without some blocks is measured.

    Losses are summed in float64 over every token but the first of each text.
    """

    def __init__(self, model: "PreTrainedModel", depth: int, loaded: list[Batch]) -> None:
        self._model = model
        self._blocks = decoder_blocks(model, depth)
        self._depth = depth
        self.batches = [batch.to(model.device) for batch in loaded]
        self.tokens = sum(int(batch.mask.sum()) - len(batch.ids) for batch in loaded)

    def perplexity(self, removed: Sequence[int]) -> float:
        """Return the perplexity of all texts without some blocks."""
        return self.of_loss(sum(self.loss(batch, removed) for batch in self.batches))

    def of_loss(self, loss: float) -> float:
        """Return the perplexity that belongs to a summed loss; infinite for a ruined model."""
        mean = loss / self.tokens
        return math.exp(mean) if mean < 700 else math.inf

    def loss(
        self, batch: Batch, removed: Sequence[int], start: "tuple[int, torch.Tensor] | None" = None
    ) -> float:
        """Return the summed loss of a batch without some blocks.

        Args:
            batch: the texts.
            removed: blocks that are left out.
            start: a block that is left out, and the states before it; the blocks before it do not run.
        """
        import torch

        stand_ins = {block: skip() for block in removed}
        if start is not None:
            stand_ins |= {block: skip() for block in range(start[0])}
            stand_ins[0] = resume(start[1])
        with standing_in(self._blocks, stand_ins):
            logits = self._model(
                input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
            ).logits
        counted = batch.mask[:, 1:].bool() & batch.mask[:, :-1].bool()
        total = 0.0
        # Text by text: float32 logits of a whole batch over a large vocabulary would be the peak of memory.
        for row, ids, these in zip(logits, batch.ids, counted, strict=True):
            losses = torch.nn.functional.cross_entropy(
                row[:-1][these].float(), ids[1:][these], reduction="none"
            )
            total += float(losses.double().sum())
        return math.inf if math.isnan(total) else total

    @contextmanager
    def states(self, batch: Batch, removed: Sequence[int]) -> "Iterator[list[torch.Tensor]]":
        """Yield the states before every block of the model without some blocks."""
        found: dict[int, torch.Tensor] = {}

        def hook(number: int) -> Any:
            def keep(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                found[number] = args[0] if args else kwargs["hidden_states"]

            return keep

        with standing_in(self._blocks, {block: skip() for block in removed}):
            hooks = [
                block.register_forward_pre_hook(hook(number), with_kwargs=True)
                for number, block in enumerate(self._blocks)
            ]
            try:
                self._model.base_model(
                    input_ids=batch.ids,
                    attention_mask=batch.mask,
                    position_ids=batch.positions,
                    use_cache=False,
                )
            finally:
                for one in hooks:
                    one.remove()
        yield [found[number] for number in range(self._depth)]


def _first(loaded: list[Batch], texts: int | None) -> list[Batch]:
    """Return the batches of so many texts, the longest."""
    if texts is None:
        return loaded
    kept: list[Batch] = []
    for batch in loaded:
        if (left := texts - sum(len(one.ids) for one in kept)) > 0:
            kept.append(Batch(batch.ids[:left], batch.mask[:left]))
    return kept


def _runs(trials: _Trials, sizes: Sequence[int], depth: int, progress: Progress) -> dict[int, list[float]]:
    """Return the perplexity without each run of blocks, by [size][start]."""
    kept = progress.read("perplexity") or {
        "batches": 0,
        "loss": {str(size): [0.0] * (depth - size + 1) for size in sizes},
    }
    loss: dict[str, list[float]] = kept["loss"]
    each = sum(map(len, loss.values()))
    with tqdm(total=each * len(trials.batches), desc="perplexity without runs", unit="trial") as bar:
        bar.update(kept["batches"] * each)
        for number, batch in enumerate(trials.batches[kept["batches"] :], start=kept["batches"] + 1):
            with trials.states(batch, ()) as states:
                for size in sizes:
                    for start in range(depth - size + 1):
                        run = range(start, start + size)
                        loss[str(size)][start] += trials.loss(batch, run, (start, states[start]))
                        bar.update()
            progress.write("perplexity", {"batches": number, "loss": loss})
    return {int(size): [trials.of_loss(one) for one in row] for size, row in loss.items()}


def _greedy(trials: _Trials, count: int, depth: int, progress: Progress) -> tuple[list[int], list[float]]:
    """Return blocks in the order of greedy removal, and the perplexity after each."""
    kept = progress.read("greedy") or {"removed": [], "perplexity": []}
    removed: list[int] = kept["removed"]
    found: list[float] = kept["perplexity"]
    total = sum(depth - step for step in range(count)) * len(trials.batches)
    with tqdm(total=total, desc="greedy removal", unit="trial") as bar:
        bar.update(sum(depth - step for step in range(len(removed))) * len(trials.batches))
        while len(removed) < count:
            loss = dict.fromkeys((block for block in range(depth) if block not in removed), 0.0)
            for batch in trials.batches:
                with trials.states(batch, removed) as states:
                    for block in loss:
                        loss[block] += trials.loss(batch, [*removed, block], (block, states[block]))
                        bar.update()
            best = min(loss, key=lambda block: (loss[block], -block))
            removed.append(best)
            found.append(trials.of_loss(loss[best]))
            progress.write("greedy", {"removed": removed, "perplexity": found})
    return removed, found


def _task(
    model: "PreTrainedModel",
    checkpoint: Checkpoint,
    wanted: SearchSpec,
    batch_size: int,
    progress: Progress,
) -> dict[int, list[float]]:
    """Return the score of the task without each run of blocks, by [size][start]."""
    from regrow.evaluate.harness import run_task, wrap
    from regrow.evaluate.spec import EvaluateSpec
    from regrow.evaluate.tasks import local_sets

    assert wanted.task is not None
    suite = EvaluateSpec(tasks=(wanted.task,), batch_size=batch_size)
    depth = checkpoint.blocks
    blocks = decoder_blocks(model, depth)
    scores: dict[str, list[float]] = progress.read("task") or {}
    sets = local_sets(wanted.task, suite.seed)
    lm = wrap(model, checkpoint.tokenizer(), batch_size)
    total = sum(depth - size + 1 for size in wanted.sizes)
    with tqdm(total=total, desc=f"{wanted.task.name} without runs", unit="trial") as bar:
        bar.update(sum(map(len, scores.values())))
        for size in wanted.sizes:
            row = scores.setdefault(str(size), [])
            for start in range(len(row), depth - size + 1):
                with standing_in(blocks, {block: skip() for block in range(start, start + size)}):
                    row.append(run_task(lm, wanted.task, suite, None, sets).value)
                progress.write("task", scores)
                bar.update()
    return {int(size): row for size, row in scores.items()}
