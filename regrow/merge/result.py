"""What a merge leaves behind beside the weights: a record, a card, and figures."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from regrow import __version__
from regrow.checkpoint import Checkpoint
from regrow.merge.spec import MergeSpec


class MergeResult(BaseModel):
    """A merged model and what the merge met."""

    model_config = ConfigDict(frozen=True)

    checkpoint: Checkpoint
    method: str = Field(description="how it was merged")
    spec: MergeSpec = Field(description="all parameters, defaults included")
    models: list[str] = Field(description="digests of the merged models, in order")
    base: str | None = Field(None, description="digest of the parent that task vectors were taken from")
    tensors: int = Field(description="number of tensors")
    linear: int | None = Field(
        None,
        description="slerp, nuslerp: tensors that were interpolated on a line: nearly parallel, or zero",
    )
    linear_share: float | None = Field(
        None, description="slerp, nuslerp: share of the weights (not tensors) that lie in those tensors"
    )
    mean_angle: float | None = Field(
        None,
        description="slerp, nuslerp: mean angle between the two models' tensors (nuslerp: task vectors) in "
        "radians, by weights",
    )
    largest_angle: float | None = Field(
        None, description="slerp, nuslerp: largest angle between two tensors, in radians"
    )

    def summary(self) -> dict[str, Any]:
        """Facts for metadata and logs."""
        facts = self.model_dump(mode="json", exclude={"checkpoint", "spec"}, exclude_none=True)
        return facts | {"spec": given(self.spec)} | self.checkpoint.summary()


def given(spec: MergeSpec) -> dict[str, Any]:
    """Return what the method has, without the fields of other methods."""
    facts: dict[str, Any] = spec.model_dump(mode="json", exclude_none=True)
    if not facts["patterns"]:
        del facts["patterns"]
    return facts


def record(
    spec: MergeSpec, models: list[Checkpoint], base: Checkpoint | None, parent: str | None
) -> dict[str, Any]:
    """Return the content of merge.json: what a second merge needs to give the same."""
    return {
        "format": 1,
        "spec": given(spec),
        "models": [model.digest for model in models],
        "base": base.digest if base else None,
        "parent": parent,
        "regrow": __version__,
    }


def card(spec: MergeSpec, models: list[Checkpoint], base: Checkpoint | None) -> str:
    """Return the model card."""
    digests = "".join(f"- sha256:{model.digest}\n" for model in models)
    parameters = "".join(
        f"- {name}: {value}\n" for name, value in given(spec).items() if name not in ("method", "patterns")
    )
    patterns = "".join(
        f"- {one.pattern}: "
        + ", ".join(f"{k}: {v}" for k, v in one.model_dump(exclude={"pattern"}, exclude_none=True).items())
        + "\n"
        for one in spec.patterns
    )
    equal = "" if spec.goes_along_arcs or spec.weights else "- weights: the same for each\n"
    origin = f"Task vectors are taken from sha256:{base.digest}.\n\n" if base else ""
    return (
        f"# A merged language model\n\nMerged by {spec.method}, tensor by tensor, of:\n\n{digests}\n{origin}"
        f"Parameters (merge.json has them for machines):\n\n{parameters}{equal}{patterns}\n"
        f"Tokenizer and configuration are those of the first. Made with regrow {__version__}.\n"
    )
