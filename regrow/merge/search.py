"""Search for the parameters of a merge: CMA-ES against a validation score.

Where along the arc, or with which weights, models merge best depends on the models; evolutionary search over it was
made known by Akiba et al. (arXiv 2403.13187, parameter space). A candidate is a `MergeSpec`: it is merged, scored on
validation questions and removed again. The optimiser is pycma's (Hansen, arXiv 1604.00772), on a box scaled to 0..1.

Scores of candidates are kept, and the optimiser is deterministic: started again, a search that was killed asks for the
same candidates, finds the finished ones and goes on. The winner is the best of many on the same questions, so its score
there flatters it: judge it on questions that the search did not see.
"""

import logging
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from regrow.checkpoint import Checkpoint
from regrow.errors import InputError
from regrow.evaluate import EvaluateSpec, Scores, evaluate, task_texts
from regrow.files import canonical_digest, read_json, write_json
from regrow.merge.engine import merge
from regrow.merge.spec import MergeSpec

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)


class SearchSpec(BaseModel):
    """How the parameters of a merge are searched for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    validation: EvaluateSpec = Field(
        description="what candidates are scored on: the mean score of tasks, or else perplexity; validation splits only"
    )
    trials: int = Field(40, ge=1, description="candidates that are scored, the starting point among them")
    anchors: int = Field(
        3,
        ge=1,
        description="numbers a parameter has over the depth of the model (a gradient); 1: one for all blocks",
    )
    population: int | None = Field(
        None, ge=2, description="candidates of a generation; not given: 4 + 3 ln(number of parameters)"
    )
    step: float = Field(0.25, gt=0, le=1, description="first standard deviation, as a share of each range")
    seed: int = Field(1, ge=1, description="seed of the optimiser")


class Candidate(BaseModel):
    """A merge that was tried."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    number: int = Field(description="0 is the starting point")
    spec: MergeSpec
    value: float = Field(description="what is maximised: mean score, or minus the loss of the texts in nats")
    scores: Scores


class Search(BaseModel):
    """A finished search."""

    model_config = ConfigDict(frozen=True)

    candidates: tuple[Candidate, ...] = Field(description="in the order they were asked for")
    models: tuple[str, ...] = Field(description="digests of the merged models")
    objective: str = Field(description="what `value` is")

    @property
    def best(self) -> Candidate:
        """The candidate with the highest value, the earliest of equals."""
        return max(self.candidates, key=lambda one: (one.value, -one.number))

    @property
    def start(self) -> Candidate:
        """The merge that the search set out from."""
        return self.candidates[0]


class Listener(Protocol):
    """Told of every candidate that was scored in this call; those of an earlier call it was told then."""

    def __call__(self, candidate: Candidate) -> None:
        """Take note."""


class _Range(BaseModel):
    """One number of the search space."""

    model_config = ConfigDict(frozen=True)

    low: float
    high: float
    start: float

    def place(self, share: float) -> float:
        """Return the value at a share of the range."""
        return self.low + (self.high - self.low) * min(1.0, max(0.0, share))

    @property
    def share(self) -> float:
        """Where the search starts."""
        return (self.start - self.low) / (self.high - self.low)


class _Space:
    """The box that is searched, and what its points mean."""

    def __init__(self, start: MergeSpec, models: int, anchors: int) -> None:
        self._start, self._models, self._anchors = start, models, anchors
        if start.goes_along_arcs:
            if models != 2:
                raise InputError(
                    f"merge --search: {start.method} has nothing to search for {models} models; use two"
                )
            self.ranges = [_Range(low=0, high=1, start=one) for one in self._anchored(start.t, 0.5)]
        else:
            # A sum of weights that is divided by itself needs one weight above nothing.
            low = 0.01 if start.normalize else 0.0
            weights = start.weights or (1 / models,) * models
            self.ranges = [
                _Range(low=low, high=max(1.0, 2 * one), start=max(low, one))
                for weight in weights
                for one in self._anchored(weight, 1 / models)
            ]
            if start.density is not None:
                self.ranges.append(_Range(low=0.05, high=1, start=self._density(start.density)))
        if len(self.ranges) < 2:
            raise InputError(
                "merge --search: there is one number to search for; take more anchors (a gradient over the blocks)"
            )

    def _anchored(self, value: Any, default: float) -> list[float]:
        """Spread a number, or a gradient of any length, over the anchors."""
        given = default if value is None else value
        if not isinstance(given, tuple):
            return [float(given)] * self._anchors
        places = [i * (len(given) - 1) / max(1, self._anchors - 1) for i in range(self._anchors)]
        return [
            given[int(place)]
            + (place - int(place)) * (given[min(int(place) + 1, len(given) - 1)] - given[int(place)])
            for place in places
        ]

    def _density(self, value: Any) -> float:
        while isinstance(value, tuple):
            value = value[0]
        return float(value)

    def spec(self, point: "Sequence[float] | np.ndarray") -> MergeSpec:
        """Return the merge that a point of the unit box stands for."""
        # Rounded: the digits that a float has beyond these change no weight, and make a recorded spec unreadable.
        values = [round(one.place(float(x)), 6) for one, x in zip(self.ranges, point, strict=True)]
        fields = self._start.model_dump()
        if self._start.goes_along_arcs:
            fields["t"] = self._gradient(values)
        else:
            size = self._anchors
            fields["weights"] = [
                self._gradient(values[i * size : (i + 1) * size]) for i in range(self._models)
            ]
            if self._start.density is not None:
                fields["density"] = values[-1]
        return MergeSpec.model_validate(fields)

    def _gradient(self, values: list[float]) -> Any:
        return values[0] if self._anchors == 1 else values


def search(
    models: Sequence[Checkpoint],
    start: MergeSpec,
    spec: SearchSpec,
    work: Path,
    *,
    base: Checkpoint | None = None,
    final: EvaluateSpec | None = None,
    listener: Listener | None = None,
) -> Search:
    """Search for the parameters of a merge.

    Args:
        models: what is merged.
        start: method, and the parameters that the search sets out from.
        spec: what is maximised, and for how long.
        work: folder of finished scores; the same folder continues a search.
        base: the models' common parent, where the method needs it.
        final: the evaluation that will judge the result; none of its questions may be searched on.
        listener: told of every new candidate.

    Raises:
        InputError: a task of the search is not on its validation split, shares questions with `final`, or the
            method has nothing to search for.
    """
    import cma

    check_validation(spec.validation, final)
    space = _Space(start, len(models), spec.anchors)
    key = {
        "models": [model.digest for model in models],
        "base": base.digest if base else None,
        "start": start.model_dump(mode="json"),
        "search": spec.model_dump(mode="json", exclude={"trials"}),
    }
    folder = work / canonical_digest(key)[:16]
    write_json(folder / "search.json", key)
    first = [one.share for one in space.ranges]
    options: dict[str, Any] = {"bounds": [0, 1], "seed": spec.seed, "verbose": -9}
    if spec.population:
        options["popsize"] = spec.population
    optimiser = cma.CMAEvolutionStrategy(first, spec.step, options)
    found: list[Candidate] = []
    with tqdm(total=spec.trials, desc="search", unit="merge") as bar:

        def scored(point: Any) -> Candidate:
            candidate = _score(len(found), space.spec(point), models, base, spec.validation, folder, listener)
            found.append(candidate)
            bar.update()
            bar.set_postfix(best=f"{max(one.value for one in found):.4f}")
            return candidate

        scored(first)
        while len(found) < spec.trials and not optimiser.stop():
            points = optimiser.ask()
            # The last generation may be cut short; the optimiser is not asked again then.
            values = [-scored(point).value for point in points[: spec.trials - len(found)]]
            if len(values) == len(points):
                optimiser.tell(points, values)
    return Search(
        candidates=tuple(found),
        models=tuple(model.digest for model in models),
        objective="mean score" if spec.validation.tasks else "minus the loss of the texts, nats",
    )


def _score(
    number: int,
    candidate: MergeSpec,
    models: Sequence[Checkpoint],
    base: Checkpoint | None,
    validation: EvaluateSpec,
    folder: Path,
    listener: Listener | None,
) -> Candidate:
    """Merge and score, or read what an earlier call found."""
    file = folder / f"{canonical_digest(candidate.model_dump(mode='json'))[:16]}.json"
    if file.exists():
        return Candidate.model_validate(read_json(file)).model_copy(update={"number": number})
    merged = folder / "merged"
    shutil.rmtree(merged, ignore_errors=True)
    try:
        result = merge(models, candidate, merged, base=base)
        scores = evaluate(f"candidate-{number}", result.checkpoint, validation)
    finally:
        shutil.rmtree(merged, ignore_errors=True)
    tried = Candidate(number=number, spec=candidate, value=_value(scores), scores=scores)
    if listener:
        listener(tried)
    write_json(file, tried.model_dump(mode="json"))
    return tried


def _value(scores: Scores) -> float:
    if scores.scores:
        return scores.mean
    assert scores.perplexity is not None
    # Finite, so that the optimiser can rank ruined merges too.
    return -math.log(scores.perplexity) if math.isfinite(scores.perplexity) else -1e9


def check_validation(validation: EvaluateSpec, final: EvaluateSpec | None) -> None:
    """Raise unless a search keeps away from the questions that will judge its result.

    Raises:
        InputError: a task does not say that it is on its validation split, or shares a question with `final`.
    """
    for task in validation.tasks:
        if task.split != "validation":
            raise InputError(
                f"merge --search: tasks.{task.name}.split is {task.split or 'not given'}; a search looks at validation "
                "splits only: set split: validation, and name a source of it"
            )
    if final is None or not (validation.tasks and final.tasks):
        return
    if shared := sorted(set(task_texts(validation)) & set(task_texts(final))):
        raise InputError(
            f"merge --search: {len(shared)} texts are also in the final evaluation, such as {shared[0][:80]!r}; "
            "search on other questions"
        )
