"""What a merge is asked to do: the method, its parameters, and where in the model they differ.

A parameter is a number or a gradient: two numbers or more that are spread evenly over the blocks, the first at
block 0 and the last at the last block, and interpolated in between. What lies outside the blocks (embeddings,
head, final norm) takes the gradient's first number. `patterns` set parameters for tensors by name.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from regrow.errors import InputError

Method = Literal["slerp", "linear", "task_arithmetic", "ties", "dare_linear", "dare_ties", "nuslerp"]
Value = float | tuple[float, ...]

# The parameters that each method has, with their defaults; `...` marks those that must be given.
_PARAMETERS: dict[str, dict[str, Any]] = {
    "slerp": {"t": 0.5},
    "nuslerp": {"t": 0.5},
    "linear": {"weights": None, "normalize": True},
    "task_arithmetic": {"weights": None, "normalize": False, "lambda_": 1.0},
    "ties": {"weights": None, "density": ..., "normalize": True, "lambda_": 1.0},
    "dare_linear": {"weights": None, "density": ..., "normalize": False, "lambda_": 1.0, "seed": 0},
    "dare_ties": {"weights": None, "density": ..., "normalize": False, "lambda_": 1.0, "seed": 0},
}
METHODS = tuple(_PARAMETERS)
_SOME_METHODS_ONLY = ("t", "weights", "density", "normalize", "lambda_", "seed")
_BY_TENSOR = ("t", "weights", "density")


def _number(value: Any, low: float, high: float, open_: bool) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a number")
    if not low <= value <= high or (open_ and value == low):
        start = "above" if open_ else "from"
        raise ValueError(
            f"{value:g} is out of range; it goes {start} {low:g} {'up ' if open_ else ''}to {high:g}"
        )
    return float(value)


def _value(low: float, high: float, *, open_: bool = False) -> Callable[[Any], Any]:
    """Return a validator of a number or a gradient."""

    def check(value: Any) -> Any:
        if isinstance(value, list | tuple):
            if len(value) < 2:
                raise ValueError("a gradient has two numbers or more, spread over the blocks")
            return tuple(_number(one, low, high, open_) for one in value)
        return None if value is None else _number(value, low, high, open_)

    return check


def _each(low: float, high: float, *, open_: bool = False, shared: bool = False) -> Callable[[Any], Any]:
    """Return a validator of a value for each model; with `shared`, a number for all will do."""
    one = _value(low, high, open_=open_)

    def check(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return tuple(one(entry) for entry in value)
        if value is None or shared:
            return one(value)
        raise ValueError("takes a list: a number, or a gradient, for each model")

    return check


Place = Annotated[Value | None, BeforeValidator(_value(0, 1))]
Weights = Annotated[tuple[Value | None, ...] | None, BeforeValidator(_each(-math.inf, math.inf))]
Density = Annotated[
    float | tuple[Value | None, ...] | None, BeforeValidator(_each(0, 1, open_=True, shared=True))
]


class Pattern(BaseModel):
    """Parameters of the tensors whose names match; the first pattern that gives a parameter decides on it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pattern: str = Field(
        min_length=1, description="glob over tensor names, such as *.mlp.* or model.layers.3.*"
    )
    t: Place = Field(None, description="as the merge's own t")
    weights: Weights = Field(
        None, description="as the merge's own; null for a model leaves that one to what follows"
    )
    density: Density = Field(
        None, description="as the merge's own; null for a model leaves that one to what follows"
    )

    @model_validator(mode="after")
    def _gives_something(self) -> "Pattern":
        if all(getattr(self, name) is None for name in _BY_TENSOR):
            raise ValueError("a pattern gives t, weights or density; this one gives none")
        return self


@dataclass(frozen=True)
class Parameters:
    """What holds for one tensor; weights and densities by model."""

    t: float
    weights: tuple[float, ...]
    density: tuple[float, ...]


class MergeSpec(BaseModel):
    """How models are merged."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Method = Field(
        "slerp",
        description="slerp: along the arc between two models, tensor by tensor; linear: weighted sum; the others "
        "combine task vectors, which are a model less the parent of all: task_arithmetic adds them, ties trims "
        "them and lets the majority decide on signs, dare_linear and dare_ties drop entries at random, nuslerp "
        "goes along the arc between two (without a parent: between the models)",
    )
    t: Place = Field(
        None,
        description="slerp, nuslerp: place on the arc, 0 is the first model, 1 the second (default: 0.5); a number "
        "or a gradient over the blocks",
    )
    weights: Weights = Field(
        None,
        description="all but slerp and nuslerp: for each model a number or a gradient over the blocks (default: one "
        "by the number of models)",
    )
    density: Density = Field(
        None,
        description="ties, dare: share of each task vector that is kept, above 0 up to 1; a number, or for each model "
        "a number or a gradient",
    )
    normalize: bool | None = Field(
        None,
        description="all but slerp and nuslerp: divide by the sum of the weights; of ties and dare_ties, of those that "
        "agree on an entry's sign (default: true for linear and ties)",
    )
    lambda_: float | None = Field(
        None,
        validation_alias=AliasChoices("lambda_", "lambda"),
        allow_inf_nan=False,
        description="task_arithmetic, ties, dare: factor on the combined task vector (default: 1)",
    )
    seed: int | None = Field(None, ge=0, description="dare: of the entries that are dropped (default: 0)")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="type of the saved weights; auto: the models' own. Arithmetic is in float32"
    )
    patterns: tuple[Pattern, ...] = Field((), description="other t, weights or density for tensors by name")

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, given: Any) -> Any:
        """Fill in the method's defaults, so that a recorded spec says all that was done."""
        if not isinstance(given, dict):
            return given
        given = dict(given)
        if "lambda" in given and "lambda_" not in given:
            given["lambda_"] = given.pop("lambda")
        for name, value in _PARAMETERS.get(str(given.get("method", "slerp")), {}).items():
            if value is not ... and given.get(name) is None:
                given[name] = value
        return given

    @model_validator(mode="after")
    def _fits_the_method(self) -> "MergeSpec":
        has = _PARAMETERS[self.method]
        for where, holder in [("", self), *((f"patterns.{i}.", p) for i, p in enumerate(self.patterns))]:
            for name in _SOME_METHODS_ONLY:
                if name not in has and getattr(holder, name, None) is not None:
                    raise ValueError(
                        f"{where}{name}: method {self.method} does not have it; it has {', '.join(has)}"
                    )
        for name, value in has.items():
            if value is ... and getattr(self, name) is None:
                raise ValueError(
                    f"{name}: method {self.method} needs it: the share of each task vector that is kept "
                    "(TIES was published with 0.2, DARE with 0.1)"
                )
        for name in ("weights", "density"):
            own = getattr(self, name)
            if isinstance(own, tuple) and None in own:
                raise ValueError(f"{name}: null is for patterns; give a number for each model")
        return self

    @property
    def needs_base(self) -> bool:
        """Whether the method combines task vectors, which are taken from a common parent."""
        return self.method not in ("slerp", "linear", "nuslerp")

    @property
    def takes_base(self) -> bool:
        """Whether the method can make use of the common parent."""
        return self.method not in ("slerp", "linear")

    @property
    def goes_along_arcs(self) -> bool:
        """Whether the method interpolates between two directions."""
        return self.method in ("slerp", "nuslerp")

    def check_count(self, models: int) -> None:
        """Raise unless the parameters are for this number of models.

        Raises:
            InputError: names the field.
        """
        for where, holder in [("", self), *((f"patterns.{i}.", p) for i, p in enumerate(self.patterns))]:
            for name in ("weights", "density"):
                given = getattr(holder, name)
                if isinstance(given, tuple) and len(given) != models:
                    raise InputError(
                        f"merge.{where}{name}: has {len(given)} entries for {models} models; give one for each"
                    )
        if models > 2 and self.goes_along_arcs and (self.t != 0.5 or self.patterns):
            raise InputError(
                f"merge.t: is for two models; {models} are merged with equal weights, one after the other. Leave t "
                "and patterns out, or choose a method with weights"
            )

    def at(self, name: str, place: float, models: int) -> Parameters:
        """Return what holds for one tensor.

        Args:
            name: of the tensor.
            place: of its block, 0 for the first to 1 for the last; 0 outside the blocks.
            models: how many are merged.
        """
        found = [p for p in self.patterns if fnmatchcase(name, p.pattern)]

        def each(parameter: str, default: float) -> tuple[float, ...]:
            result = []
            for index in range(models):
                given = (_of_model(getattr(holder, parameter), index) for holder in (*found, self))
                value = next((one for one in given if one is not None), default)
                result.append(_interpolate(value, place))
            return tuple(result)

        t = next((p.t for p in found if p.t is not None), self.t)
        return Parameters(
            t=_interpolate(0.5 if t is None else t, place),
            weights=each("weights", 1 / models),
            density=each("density", 1.0),
        )

    def unmatched(self, names: Sequence[str]) -> list[str]:
        """Return the patterns that no tensor's name matches."""
        return [p.pattern for p in self.patterns if not any(fnmatchcase(name, p.pattern) for name in names)]


def _of_model(given: Any, index: int) -> Value | None:
    """Return a model's entry of what holds for all, or for each."""
    return given[index] if isinstance(given, tuple) else given


def _interpolate(value: Value, place: float) -> float:
    if not isinstance(value, tuple):
        return value
    position = place * (len(value) - 1)
    left = min(int(position), len(value) - 2)
    share = position - left
    return (1 - share) * value[left] + share * value[left + 1]
