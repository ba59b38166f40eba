"""Models against the unpruned one, beside tasks: drift, cost, and their use as drafts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from regrow.checkpoint import Checkpoint
from regrow.evaluate.drift import Drift, drift
from regrow.evaluate.live import Live
from regrow.evaluate.spec import EvaluateSpec
from regrow.evaluate.speculative import Speculation, draft_for
from regrow.evaluate.speed import Speed, speed

BASE = "base"


class Measures(BaseModel):
    """What was measured of models against the unpruned one; empty where the specification does not ask for it."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    drifts: tuple[Drift, ...] = Field((), description="one a model")
    speeds: tuple[Speed, ...] = Field((), description="the unpruned model, then one a model")
    drafts: tuple[Speculation, ...] = Field((), description="one a model")

    def summary(self) -> dict[str, Any]:
        """The figures in short, by measure and model."""
        found: dict[str, Any] = {}
        if self.drifts:
            found["drift"] = {one.name: _unnamed(one.summary()) for one in self.drifts}
        if self.speeds:
            base, *rest = self.speeds
            found["speed"] = {base.name: _unnamed(base.summary())}
            found["speed"] |= {one.name: _unnamed(one.summary(base)) for one in rest}
        if self.drafts:
            found["draft"] = {one.name: _unnamed(one.summary()) for one in self.drafts}
        return found


def _unnamed(summary: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in summary.items() if key != "name"}


def evaluate_against(
    base: Checkpoint,
    models: Mapping[str, Checkpoint],
    spec: EvaluateSpec,
    cache: Path | None = None,
    *,
    base_name: str = BASE,
) -> Measures:
    """Measure whatever of `answers`, `speed` and `draft` the specification asks for.

    At most two models are in memory for answers and drafts, all of them for speed.

    Args:
        base: the unpruned model.
        models: the others, by name.
        spec: what is measured, with the same settings for all.
        cache: folder for finished results, but for speed, which is that of this machine now.
        base_name: what the unpruned model is called in tables.

    Raises:
        InputError: a set, an encoder or a model cannot be used; the message says which.
    """
    costs = measure_costs(base, models, spec, cache, base_name=base_name)
    if spec.answers is None:
        return costs
    live = Live(base, spec.dtype)
    drifts = [drift(base, model, spec, cache, name=name, live_base=live) for name, model in models.items()]
    return costs.model_copy(update={"drifts": tuple(drifts)})


def measure_costs(
    base: Checkpoint,
    models: Mapping[str, Checkpoint],
    spec: EvaluateSpec,
    cache: Path | None = None,
    *,
    base_name: str = BASE,
) -> Measures:
    """Measure `speed` and `draft` alone; arguments and errors as of `evaluate_against`."""
    # Speed comes first, while no model lies in this process.
    speeds = speed({base_name: base, **models}, spec) if spec.speed else []
    drafts = []
    if spec.draft:
        live = Live(base, spec.dtype)
        drafts = [
            draft_for(base, model, spec, cache, name=name, live_target=live) for name, model in models.items()
        ]
    return Measures(speeds=tuple(speeds), drafts=tuple(drafts))
