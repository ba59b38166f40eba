"""mergekit's YAML, read into a MergeSpec and written from one.

What both have means the same: methods, parameters with their gradients and filters, base_model. What only mergekit
has is refused by its key. Three things differ: regrow computes in float32 whatever `dtype` says, and rounds once to
`out_dtype` or else `dtype`; DARE divides what it keeps by the density, where mergekit restores the sum of
magnitudes; and its random numbers are its own.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from regrow.errors import InputError
from regrow.merge.spec import METHODS, MergeSpec, Pattern, Value

_DTYPES = ("bfloat16", "float16", "float32")
_KEYS = (
    "merge_method", "models", "slices", "base_model", "parameters", "dtype", "out_dtype", "tokenizer_source",
)  # fmt: skip
# A conditional setting of mergekit: the part of a name that it is for (None: any), and its value.
_Setting = list[tuple[str | None, Value]]
_BY_MODEL = {"weight": "weights", "density": "density"}
_GLOBAL = {"normalize": "normalize", "lambda": "lambda_"}
# Without effect on the result, or what regrow does anyway.
_ALLOWED = {
    "int8_mask": (True, False),
    "nuslerp_flatten": (True,),
    "nuslerp_row_wise": (False,),
}


class MergekitConfig(BaseModel):
    """What a mergekit file asks for, in regrow's words."""

    model_config = ConfigDict(frozen=True)

    models: list[str] = Field(
        description="paths or names of the models, in order; the base is not among them"
    )
    base: str | None = Field(
        None, description="path or name of the common parent, where the method takes one"
    )
    spec: MergeSpec
    blocks: int | None = Field(None, description="number of blocks, where the file cuts slices: all of them")


def read_mergekit(path: Path) -> MergekitConfig:
    """Read a mergekit file.

    Raises:
        InputError: no such file, not YAML, or it asks for what regrow does not have; names the key.
    """
    import yaml

    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(given, dict):
        raise InputError(f"{path}: not a mergekit configuration; it has keys such as merge_method and models")
    return _Reading(path, given).config()


class _Reading:
    """One file while it is read."""

    def __init__(self, path: Path, given: Mapping[str, Any]) -> None:
        self._path, self._given = path, given
        for key in given:
            if key not in _KEYS:
                self._refuse(key, "regrow does not have this")
        self._method = str(given.get("merge_method"))
        if self._method not in METHODS:
            self._refuse("merge_method", f"{self._method} is not among {', '.join(METHODS)}")
        self._base = self._name(given["base_model"], "base_model") if given.get("base_model") else None

    def _refuse(self, key: str, why: str) -> None:
        raise InputError(f"{self._path}: {key}: {why}")

    def config(self) -> MergekitConfig:
        """Return the whole."""
        from regrow.parsing import parse

        sources, blocks, shared = self._sources()
        names = [name for name, _ in sources]
        if len(set(names)) != len(names):
            self._refuse("models", "a model is listed twice")
        models, base = self._roles(names)
        self._check_tokenizer(names)
        wanted = {"weight", "density", "t", *_GLOBAL, *_ALLOWED, "rescale"}
        for where, parameters in [("parameters", shared), *((f"parameters of {n}", p) for n, p in sources)]:
            for one in parameters:
                for key in one:
                    if key not in wanted:
                        self._refuse(f"{where}.{key}", "regrow does not have this")
        own = dict(sources)
        settings: dict[str, Any] = {"method": self._method}
        settings |= self._shared(shared, own)
        settings |= self._by_tensor(models, own, shared)
        dtype = self._given.get("out_dtype") or self._given.get("dtype")
        if dtype is not None:
            if dtype not in _DTYPES:
                self._refuse("dtype", f"{dtype} is not among {', '.join(_DTYPES)}")
            settings["dtype"] = dtype
        spec = parse(MergeSpec, settings, str(self._path))
        return MergekitConfig(models=models, base=base, spec=spec, blocks=blocks)

    def _name(self, given: Any, key: str) -> str:
        if not isinstance(given, str):
            self._refuse(key, "write the model as a path or name")
        if "+" in given:
            self._refuse(
                key,
                f"{given}: adapters are not merged here; write them into their parent (regrow fuse)",
            )
        return str(given)

    def _sources(self) -> tuple[list[tuple[str, list[dict[str, Any]]]], int | None, list[dict[str, Any]]]:
        """Return models with their own parameters, the number of blocks, and what all share, nearest first."""
        top = [self._mapping(self._given.get("parameters"), "parameters")]
        if self._given.get("slices"):
            if len(self._given["slices"]) != 1:
                self._refuse(
                    "slices", "regrow does not rearrange blocks; it takes one slice with all of them"
                )
            (only,) = self._given["slices"]
            for key in only:
                if key not in ("sources", "parameters"):
                    self._refuse(f"slices.{key}", "regrow does not have this")
            ranges = {tuple(one["layer_range"]) for one in only["sources"]}
            if len(ranges) != 1 or next(iter(ranges))[0] != 0:
                self._refuse(
                    "slices.layer_range", "must be all blocks, [0, number of blocks], of every model"
                )
            blocks = int(next(iter(ranges))[1])
            listed, key = only["sources"], "slices.sources"
            shared = [self._mapping(only.get("parameters"), "slices.parameters"), *top]
        elif self._given.get("models"):
            listed, key, shared, blocks = self._given["models"], "models", top, None
        else:
            self._refuse("models", "missing; list them")
        found = []
        for one in listed:
            for inner in one:
                if inner not in ("model", "parameters", "layer_range"):
                    self._refuse(f"{key}.{inner}", "regrow does not have this")
            own = self._mapping(one.get("parameters"), f"{key}.parameters")
            found.append((self._name(one.get("model"), f"{key}.model"), [own]))
        return found, blocks, shared

    def _mapping(self, given: Any, key: str) -> dict[str, Any]:
        if given is not None and not isinstance(given, dict):
            self._refuse(key, "must be a mapping")
        return dict(given or {})

    def _roles(self, names: list[str]) -> tuple[list[str], str | None]:
        """Return the models that are merged, and the parent."""
        if self._method == "slerp":
            if self._base is None:
                self._refuse("base_model", "method slerp names one of its two models here, which t = 0 gives")
            pair = [str(self._base), *(name for name in names if name != self._base)]
            if len(pair) != 2:
                self._refuse("models", f"method slerp takes two; these are {len(pair)}")
            return pair, None
        if self._method == "linear":
            if self._base and self._base not in names:
                self._refuse("base_model", "must be one of the models with method linear")
            return names, None
        if self._method != "nuslerp" and self._base is None:
            self._refuse("base_model", f"missing; method {self._method} takes task vectors from it")
        models = [name for name in names if name != self._base]
        if self._method == "nuslerp" and len(models) != 2:
            self._refuse("models", f"method nuslerp takes two beside the base; these are {len(models)}")
        return models, self._base

    def _check_tokenizer(self, names: list[str]) -> None:
        source = self._given.get("tokenizer_source")
        if source is not None and source not in ("base", *names, self._base):
            self._refuse(
                "tokenizer_source",
                f"{source}: regrow merges models of one tokenizer only; leave it out, or name base or a model",
            )

    def _shared(
        self, shared: list[dict[str, Any]], own: Mapping[str, list[dict[str, Any]]]
    ) -> dict[str, Any]:
        settings: dict[str, Any] = {}
        for name, target in _GLOBAL.items():
            value = next((one[name] for one in shared if name in one), None)
            if value is None:
                continue
            if isinstance(value, list | dict):
                self._refuse(f"parameters.{name}", "must be one value here, without gradient or filter")
            settings[target] = _plain(value)
        rescale = next((one["rescale"] for one in shared if "rescale" in one), None)
        if rescale is not None and rescale != self._method.startswith("dare"):
            self._refuse(
                "parameters.rescale", f"must be {str(not rescale).lower()} with method {self._method}"
            )
        for name, values in _ALLOWED.items():
            value = next((one[name] for one in shared if name in one), values[0])
            if value not in values:
                self._refuse(f"parameters.{name}", f"{value} is not to be had; leave it out")
        for model, ones in own.items():
            for name in (*_GLOBAL, "t", "rescale", *_ALLOWED):
                if any(name in one for one in ones):
                    self._refuse(f"parameters of {model}.{name}", "stands in the parameters of all models")
        return settings

    def _by_tensor(
        self, models: list[str], own: Mapping[str, list[dict[str, Any]]], shared: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """Return t, weights and density, with the patterns for what has a filter."""
        if self._method == "slerp":
            setting = self._setting(shared, "t", "parameters.t")
            return _joined({"t": [setting]}, self._required([setting], "t"))
        each = {
            name: [
                self._setting([*own.get(model, []), *shared], name, f"parameters of {model}.{name}")
                for model in models
            ]
            for name in _BY_MODEL
        }
        weights = self._required(each["weight"], "weight")
        if self._method == "nuslerp":
            return self._place_of(each["weight"])
        result = {"weights": each["weight"]}
        defaults = {"weights": weights["weight"]}
        if self._method not in ("linear", "task_arithmetic"):
            result["density"] = [[*setting, (None, 1.0)] for setting in each["density"]]
            defaults |= {"density": self._required(result["density"], "density")["density"]}
        elif any(each["density"]):
            self._refuse("parameters.density", f"method {self._method} does not have it")
        return _joined(result, defaults)

    def _required(self, settings: list[_Setting], name: str) -> dict[str, list[Value]]:
        """Return what holds where no filter matches."""
        found = [next((value for part, value in setting if part is None), None) for setting in settings]
        if None in found:
            self._refuse(
                f"parameters.{name}", "missing for tensors that no filter matches; add a value without filter"
            )
        return {name: [one for one in found if one is not None]}

    def _setting(self, scopes: Iterable[Mapping[str, Any]], name: str, where: str) -> _Setting:
        """Return a parameter's conditional values, those that decide first in front."""
        found: _Setting = []
        for scope in scopes:
            given = scope.get(name)
            if given is None:
                continue
            conditions = isinstance(given, list) and any(isinstance(one, dict) for one in given)
            for one in given if conditions else [given]:
                part, value = None, one
                if isinstance(one, dict):
                    if set(one) - {"filter", "value"} or "value" not in one:
                        self._refuse(where, "a conditional value has filter and value")
                    part, value = one.get("filter"), one["value"]
                try:
                    number = tuple(map(_plain, value)) if isinstance(value, list) else _plain(value)
                except ValueError:
                    self._refuse(where, f"{value} is not a number")
                if isinstance(number, tuple) and len(number) == 1:
                    number = number[0]
                found.append((None if part in (None, "*") else str(part), number))
        last = next((i for i, (part, _) in enumerate(found) if part is None), len(found))
        return found[: last + 1]

    def _place_of(self, settings: list[_Setting]) -> dict[str, Any]:
        """Turn nuslerp's two weights into t."""
        first, second = settings
        if [part for part, _ in first] != [part for part, _ in second]:
            self._refuse("parameters.weight", "method nuslerp: both models must have the same filters")
        places: _Setting = []
        for (part, a), (_, b) in zip(first, second, strict=True):
            length = max(len(one) if isinstance(one, tuple) else 1 for one in (a, b))
            pairs = list(zip(_stretched(a, length), _stretched(b, length), strict=False))
            sums = {x + y for x, y in pairs}
            if (
                max(sums) - min(sums) > 1e-9
                or len({len(one) for one in (a, b) if isinstance(one, tuple)}) > 1
            ):
                self._refuse(
                    "parameters.weight", "method nuslerp: gradients must have one length and one sum"
                )
            there = [0.5 if abs(x + y) < 1e-6 else y / (x + y) for x, y in pairs]
            places.append((part, tuple(there) if length > 1 else there[0]))
        return _joined({"t": [places]}, self._required([places], "t"))


def _plain(value: Any) -> Any:
    """Return a scalar; YAML reads 1e-3 as text."""
    return float(value) if isinstance(value, str) else value


def _stretched(value: Value, length: int) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,) * length


def _joined(settings: Mapping[str, list[_Setting]], defaults: Mapping[str, list[Value]]) -> dict[str, Any]:
    """Return fields of a MergeSpec: defaults, and a pattern for each value that has a filter."""
    patterns: list[dict[str, Any]] = []
    for name, each in settings.items():
        for index, setting in enumerate(each):
            for part, value in setting:
                if part is None:
                    break
                glob = f"*{_escaped(part)}*"
                if name == "t":
                    patterns.append({"pattern": glob, "t": value})
                else:
                    entries: list[Value | None] = [None] * len(each)
                    entries[index] = value
                    patterns.append({"pattern": glob, name: entries})
    found: dict[str, Any] = {
        name: values[0] if name == "t" else list(values) for name, values in defaults.items()
    }
    return found | ({"patterns": _together(patterns)} if patterns else {})


def _together(patterns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join patterns for one glob that follow each other and speak of different models."""
    result: list[dict[str, Any]] = []
    for one in patterns:
        same = result[-1] if result and result[-1]["pattern"] == one["pattern"] else None
        (name,) = set(one) - {"pattern"}
        if same is None or (name == "t" and name in same):
            result.append(one)
        elif name not in same:
            same[name] = one[name]
        elif any(a is not None and b is not None for a, b in zip(same[name], one[name], strict=True)):
            result.append(one)
        else:
            same[name] = [a if b is None else b for a, b in zip(same[name], one[name], strict=True)]
    return result


def _escaped(part: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", part)


def write_mergekit(
    models: Sequence[str], spec: MergeSpec, *, base: str | None = None, stored: str | None = None
) -> str:
    """Return mergekit's YAML for a merge.

    Args:
        models: paths or names of the models, in order.
        spec: how they are merged.
        base: path or name of the common parent, where the method takes one.
        stored: the type that the models are stored in: what mergekit is told to save where the spec's dtype is auto.

    Raises:
        InputError: mergekit cannot say this: more than two models of an arc, or a pattern that is not one part of a
            name between asterisks.
    """
    import yaml

    spec.check_count(len(models))
    if spec.goes_along_arcs and len(models) != 2:
        raise InputError(f"merge: mergekit's {spec.method} takes two models, not {len(models)}")
    if spec.needs_base and base is None:
        raise InputError(
            f"merge: method {spec.method} needs the models' parent; name it as base (--base MODEL)"
        )
    document: dict[str, Any] = {"merge_method": spec.method}
    if spec.method == "slerp":
        document["base_model"] = models[0]
    elif base is not None:
        document["base_model"] = base
    document["models"] = [_model(spec, list(models), index) for index in range(len(models))]
    shared: dict[str, Any] = {}
    if spec.method == "slerp":
        shared["t"] = _written([(p.pattern, p.t) for p in spec.patterns], spec.t)
    for name, key in {**_GLOBAL}.items():
        if (value := getattr(spec, key)) is not None:
            shared[name] = value
    if shared:
        document["parameters"] = shared
    saved = stored if spec.dtype == "auto" else spec.dtype
    if saved:
        # In float32 mergekit would lose digits of an arc's angle in the sums of squares.
        document |= {"dtype": "float64" if spec.goes_along_arcs else "float32", "out_dtype": saved}
    return str(yaml.safe_dump(document, sort_keys=False, default_flow_style=None, allow_unicode=True))


def _model(spec: MergeSpec, models: list[str], index: int) -> dict[str, Any]:
    entry: dict[str, Any] = {"model": models[index]}
    if spec.method == "slerp":
        return entry
    parameters: dict[str, Any] = {}
    if spec.method == "nuslerp":
        parameters["weight"] = _written(
            [(p.pattern, _share(p.t, index)) for p in spec.patterns], _share(spec.t, index)
        )
    else:
        for name, key in _BY_MODEL.items():
            if name == "density" and spec.density is None:
                continue
            default = _entry(getattr(spec, key), index)
            parameters[name] = _written(
                [(p.pattern, _entry(getattr(p, key), index)) for p in spec.patterns],
                1 / len(models) if default is None else default,
            )
    return entry | {"parameters": parameters}


def _entry(given: Any, index: int) -> Value | None:
    return given[index] if isinstance(given, tuple) else given


def _share(t: Value | None, index: int) -> Value | None:
    """Return the weight that t gives to one of two models."""
    if t is None:
        return None
    both = tuple((1 - one, one)[index] for one in (t if isinstance(t, tuple) else (t,)))
    return both if isinstance(t, tuple) else both[0]


def _written(conditions: Iterable[tuple[str, Value | None]], default: Value | None) -> Any:
    """Return a parameter as mergekit has it: a value, a gradient, or conditional values."""
    found: list[dict[str, Any]] = [
        {"filter": _filter(pattern), "value": _listed(value)}
        for pattern, value in conditions
        if value is not None
    ]
    return [*found, {"value": _listed(default)}] if found else _listed(default)


def _listed(value: Value | None) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _filter(pattern: str) -> str:
    inner = re.sub(r"\[([*?[])\]", "\0", pattern)
    if (
        len(inner) < 3
        or not (inner.startswith("*") and inner.endswith("*"))
        or re.search(r"[*?[]", inner[1:-1])
    ):
        raise InputError(
            f"merge.patterns: {pattern} cannot be said in mergekit's YAML, whose filters are a part of a name; "
            "write it as *part*"
        )
    return re.sub(r"\[([*?[])\]", r"\1", pattern[1:-1])


__all__ = ["MergekitConfig", "Pattern", "read_mergekit", "write_mergekit"]
