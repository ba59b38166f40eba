"""What a version must show before it is promoted: the policy file.

Three gates are no matter of policy and always asked: that the promotion record is whole, that the version's files
still have the digest that it was registered with, and that nothing in MLflow contradicts the statements.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from regrow.promotion.record import Target

# What licences of these kinds ask for is no more than a notice (`regrow.registry.licences`).
FREE = ("public domain", "permissive")


class NonInferiority(BaseModel):
    """How much worse than a reference the version may be, on the items that both answered."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    against: Literal["champion_or_base", "champion", "base"] = Field(
        "champion_or_base",
        description="champion: the version that holds the alias; base: the unpruned model; champion_or_base: "
        "the base as long as there is no champion",
    )
    margin: float = Field(
        0.02, ge=0, lt=1, description="largest loss of mean score against the champion, 0.02 is 2 points"
    )
    base_margin: float = Field(
        0.10, ge=0, lt=1, description="the same against the base, which the champion has lost to, too"
    )
    task_margin: float | None = Field(
        None, ge=0, lt=1, description="largest loss on any single task; null: only the mean counts"
    )
    confidence: float = Field(
        0.95, ge=0.5, lt=1, description="one-sided: how sure it must be that the loss is below the margin"
    )


class Attestation(BaseModel):
    """What the statements that come with the checkpoint must show."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    required: bool = Field(True, description="an attestation chain is there and everything in it verifies")
    signature: Literal["required", "with_key", "ignored"] = Field(
        "with_key",
        description="required: valid, and a key to check with is given; with_key: valid where a key to check with is "
        "configured; ignored: an invalid one fails all the same",
    )


class Rules(BaseModel):
    """The gates before one alias."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    non_inferiority: NonInferiority | None = Field(None, description="null: not asked")
    floors: dict[str, float] = Field(default_factory=dict, description="least score by task")
    data_gate: Literal["required", "ignored"] = Field(
        "required", description="required: every set that it was tuned on passed the data gate"
    )
    attestation: Attestation = Field(default_factory=Attestation)
    licences: tuple[str, ...] | None = Field(
        FREE,
        description="allowed licences of the base and of all data: SPDX identifiers, or kinds of licence (public "
        "domain, permissive, share alike, conditions of use, not for commerce, no derivatives); "
        "null: any, also unknown ones",
    )


class Policy(BaseModel):
    """The gates before each alias; without a file, these defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    staging: Rules = Field(default_factory=Rules, description="where it is tried: provenance, not scores")
    champion: Rules = Field(
        default_factory=lambda: Rules(non_inferiority=NonInferiority()),
        description="what is deployed: not worse than what is deployed now",
    )

    def rules(self, target: Target) -> Rules:
        """Return the gates before an alias."""
        return self.staging if target == "staging" else self.champion
