import json
import math
import random

import pytest

from regrow.errors import InputError
from regrow.evaluate import Scores, TaskScore, recovery, recovery_interval


def score(values) -> TaskScore:
    values = tuple(float(value) for value in values)
    mean = sum(values) / len(values)
    error = (sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values)) ** 0.5
    return TaskScore(metric="acc,none", value=mean, stderr=error, samples=len(values), items=values)


def scores(
    name: str = "base", digest: str = "a", perplexity: float | None = 20.0, **tasks: TaskScore
) -> Scores:
    return Scores(
        name=name,
        digest=digest,
        parameters=10,
        flops_per_token=20,
        perplexity=perplexity,
        perplexity_tokens=5,
        scores=tasks,
        settings={"seed": 1},
        seconds=0.0,
    )


def test_recovery_is_the_ratio_of_unweighted_means():
    # 0.25 and 0.8 against 0.5 and 0.8, though the second task has five times the items.
    base = scores(a=score([1, 0, 0, 1]), b=score([1, 1, 1, 1, 0] * 4))
    model = scores("pruned", "b", a=score([1, 0, 0, 0]), b=score([1, 1, 1, 1, 0] * 4))
    assert recovery(model, base) == pytest.approx(1.05 / 1.3)
    found = recovery_interval(model, base)
    assert found.value == pytest.approx(1.05 / 1.3)
    assert found.mean_of_ratios == pytest.approx((0.5 + 1.0) / 2)
    assert recovery(base, base) == 1.0


def test_pairing_narrows_the_interval():
    draw = random.Random(0)
    base_items = [draw.random() < 0.5 for _ in range(200)]
    ours = [item if draw.random() < 0.95 else not item for item in base_items]
    base, model = scores(a=score(base_items)), scores("merged", "b", a=score(ours))
    paired = recovery_interval(model, base)
    shuffled = model.model_copy(update={"scores": {"a": score(draw.sample(ours, len(ours)))}})
    unpaired = recovery_interval(shuffled, base)
    assert paired.method == "paired bootstrap"
    assert paired.value == pytest.approx(unpaired.value)
    assert paired.low < paired.value < paired.high
    assert paired.stderr < unpaired.stderr / 2
    # By hand: the variance of a ratio of means of paired items, first order.
    n, mean, ratio = len(ours), sum(base_items) / len(ours), paired.value
    residuals = [x - ratio * y for x, y in zip(ours, base_items, strict=True)]
    delta = math.sqrt(sum(r * r for r in residuals) / n / n) / mean
    assert paired.stderr == pytest.approx(delta, rel=0.1)


def test_without_items_errors_are_propagated():
    bare = TaskScore(metric="x,none", value=0.5, stderr=0.05, samples=100)
    found = recovery_interval(scores("m", "b", a=bare), scores(a=bare))
    assert found.method == "independent normal"
    assert found.stderr == pytest.approx(0.1 * math.sqrt(2), rel=0.1)


def test_models_evaluated_differently_are_not_compared():
    base = scores(a=score([1, 0]))
    with pytest.raises(InputError, match="differ in task"):
        recovery(scores("m", "b", b=score([1, 0])), base)
    with pytest.raises(InputError, match="differ in seed"):
        recovery(scores("m", "b", a=score([1, 0])).model_copy(update={"settings": {"seed": 2}}), base)
    with pytest.raises(InputError, match="scores 0"):
        recovery(scores("m", "b", a=score([1, 0])), scores(a=score([0, 0])))


def test_an_infinite_perplexity_survives_storage():
    ruined = scores("pruned", "b", perplexity=math.inf, a=score([1, 0]))
    again = Scores.model_validate(json.loads(json.dumps(ruined.model_dump(mode="json"))))
    assert again == ruined
    assert Scores.model_validate_json(ruined.model_dump_json()) == ruined
    assert ruined.summary()["scores"]["a"]["value"] == 0.5
