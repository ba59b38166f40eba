"""One model in two registries: do MLflow's version and ZenML's say the same?"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from regrow.registry.names import is_fact

# What ties the two together, beside what a version says of itself.
_LINKS = ("mlflow_version", "stage")
# ZenML archives a version when another takes its stage; in MLflow the alias is gone from it.
_NO_STAGE = {"none", "archived"}


class Mismatch(BaseModel):
    """A fact that the two registries tell differently."""

    model_config = ConfigDict(frozen=True)

    key: str = Field(description="name of the tag")
    mlflow: str | None = Field(description="what MLflow says; null: nothing")
    zenml: str | None = Field(description="what ZenML says; null: nothing")

    def sentence(self) -> str:
        """Say it for people."""
        return f"{self.key}: MLflow says {self.mlflow or 'nothing'}, ZenML {self.zenml or 'nothing'}"


def mismatches(mlflow: Mapping[str, Any], zenml: Mapping[str, Any]) -> list[Mismatch]:
    """Compare what two registries say of one version.

    Compared are the facts (`regrow.registry.FACT_TAGS` and the digest of each dataset), `mlflow_version` (the number
    that ZenML's version links to) and `stage` (`production`, `staging`, or `none`, which a former holder's `archived`
    is as well, since its alias has moved on); the latter two where both sides have them. Everything else is one
    registry's own affair.

    Args:
        mlflow: `Version.facts()` of the version in MLflow.
        zenml: metadata of the model version in ZenML, with its `stage`.

    Returns:
        What differs, by key; nothing if the two agree.
    """
    keys = {key for key in (*mlflow, *zenml) if is_fact(key)}
    keys |= {key for key in _LINKS if key in mlflow and key in zenml}
    sides = {key: (_text(key, mlflow.get(key)), _text(key, zenml.get(key))) for key in sorted(keys)}
    return [
        Mismatch(key=key, mlflow=one, zenml=other)
        for key, (one, other) in sides.items()
        if one != other and not (key == "stage" and {one, other} <= _NO_STAGE)
    ]


def _text(key: str, value: Any) -> str | None:
    """A value as a tag holds it; ZenML gives metadata back with types, and no stage as None."""
    if value is None:
        return "none" if key == "stage" else None
    return str(getattr(value, "value", value))
