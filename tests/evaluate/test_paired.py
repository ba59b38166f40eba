import math
import random
from statistics import NormalDist

import numpy as np
import pytest

from regrow.errors import InputError
from regrow.evaluate.paired import compare, holm, mcnemar, minimum_detectable
from regrow.evaluate.resample import p_value, resample
from regrow.evaluate.scores import Scores, TaskScore, recovery_interval


def task(items) -> TaskScore:
    items = tuple(np.asarray(items, dtype=float).tolist())
    return TaskScore(
        metric="acc,none", value=sum(items) / len(items), stderr=0.01, samples=len(items), items=items
    )


def model(name: str, tasks: list, **changes) -> Scores:
    return Scores(
        name=name,
        digest=name,
        parameters=1,
        flops_per_token=1,
        perplexity=None,
        perplexity_tokens=0,
        scores={f"t{i}": one if isinstance(one, TaskScore) else task(one) for i, one in enumerate(tasks)},
        settings={"seed": 1, **changes},
        seconds=0.0,
    )


# Of each task: items, how often both models solve an item, only ours does, only theirs does.
STUDY = ((100, 0.45, 0.10, 0.14), (200, 0.30, 0.08, 0.11), (400, 0.55, 0.06, 0.05))
NULL = ((100, 0.45, 0.12, 0.12), (200, 0.30, 0.10, 0.10), (400, 0.55, 0.06, 0.06))


def draw_study(rng, cells) -> tuple[Scores, Scores]:
    """Two models that answered the same random questions."""
    ours, theirs = [], []
    for items, both, only_ours, only_theirs in cells:
        counts = rng.multinomial(items, [both, only_ours, only_theirs, 1 - both - only_ours - only_theirs])
        ours.append(np.repeat([1, 1, 0, 0], counts))
        theirs.append(np.repeat([1, 0, 1, 0], counts))
    return model("pruned", ours), model("base", theirs)


def test_intervals_cover_the_truth_as_often_as_they_say():
    """1,500 simulated studies of three tasks (100, 200, 400 items), 95 % intervals of 2,000 draws."""
    rng = np.random.default_rng(11)
    ours = [both + mine for _, both, mine, _ in STUDY]
    theirs = [both + other for _, both, _, other in STUDY]
    truths = {
        "difference": np.mean(ours) - np.mean(theirs),
        "recovery": np.mean(ours) / np.mean(theirs),
        "mean of ratios": np.mean(np.divide(ours, theirs)),
        "first task": ours[0] - theirs[0],
    }
    covered = dict.fromkeys(truths, 0)
    studies = 1500
    for study in range(studies):
        found = compare(*draw_study(rng, STUDY), draws=2000, seed=study)
        bounds = {
            "difference": (found.low, found.high),
            "recovery": (found.recovery.low, found.recovery.high),
            "mean of ratios": (found.recovery.mean_of_ratios_low, found.recovery.mean_of_ratios_high),
            "first task": (found.tasks[0].low, found.tasks[0].high),
        }
        for name, (low, high) in bounds.items():
            covered[name] += low <= truths[name] <= high
    shares = {name: count / studies for name, count in covered.items()}
    assert all(0.93 <= share <= 0.97 for share in shares.values()), shares


def test_p_values_are_uniform_where_nothing_differs():
    rng = np.random.default_rng(12)
    found = [compare(*draw_study(rng, NULL), draws=2000, seed=i) for i in range(1500)]
    p = np.array([one.p for one in found])
    rates = {level: float((p < level).mean()) for level in (0.05, 0.25, 0.5)}
    verdicts = np.mean([one.result != "no difference" for one in found])
    exact = np.mean([one.tasks[2].p_mcnemar < 0.05 for one in found])
    assert 0.03 <= rates[0.05] <= 0.07
    assert 0.22 <= rates[0.25] <= 0.28
    assert 0.46 <= rates[0.5] <= 0.54
    assert 0.03 <= verdicts <= 0.07
    # An exact test of a discrete statistic keeps below its level.
    assert exact <= 0.05


@pytest.mark.parametrize(("items", "discordance"), [(100, 0.3), (400, 0.15), (1000, 0.08)])
def test_a_detectable_difference_is_found_four_times_in_five(items: int, discordance: float):
    rng = np.random.default_rng(13)
    difference = minimum_detectable(items, discordance)
    cells = [(items, 0.4, (discordance + difference) / 2, (discordance - difference) / 2)]
    studies = 1000
    hits = sum(
        compare(*draw_study(rng, cells), draws=2000, seed=i).result == "better" for i in range(studies)
    )
    assert 0.75 <= hits / studies <= 0.86


def test_detectable_difference_by_hand():
    # 1000 items of which 10 % change: (1.96 + 0.84) * sqrt(0.1 / 1000), nearly.
    rough = (NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(0.8)) * math.sqrt(0.1 / 1000)
    assert minimum_detectable(1000, 0.1) == pytest.approx(rough, rel=0.02)
    # Models that agree on all of 100 items: about eight changes, all one way, would have been found.
    assert minimum_detectable(100, 0.0) == pytest.approx(0.0766, abs=0.001)
    # Connett's n for psi = .3, d = .1 is 234; turned around.
    test, power = NormalDist().inv_cdf(0.975), NormalDist().inv_cdf(0.8)
    n = (test * math.sqrt(0.3) + power * math.sqrt(0.3 - 0.01)) ** 2 / 0.01
    assert minimum_detectable(round(n), 0.3) == pytest.approx(0.1, rel=0.01)
    # Less noise, more items: smaller differences.
    assert minimum_detectable(400, 0.2) < minimum_detectable(100, 0.2)
    assert minimum_detectable(400, 0.01) < minimum_detectable(400, 0.1)
    assert minimum_detectable(400, 0.0, binary=False) is None
    assert minimum_detectable(400, 0.1, binary=False) == pytest.approx(minimum_detectable(400, 0.1), rel=0.01)
    assert minimum_detectable(1, 0.0) is None


def test_mcnemar_is_the_exact_binomial_test():
    from scipy.stats import binomtest

    for b, c in [(0, 0), (1, 0), (5, 0), (6, 0), (3, 9), (10, 10), (41, 20), (120, 171), (1000, 1100)]:
        expected = binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
        assert mcnemar(b, c) == mcnemar(c, b) == pytest.approx(expected, abs=1e-12)
    # Worked by hand: 2 * (1 + 12 + 66 + 220) / 4096.
    assert mcnemar(3, 9) == pytest.approx(0.14599609375)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_comparison_says_what_it_found():
    base = [1] * 60 + [0] * 40
    worse = [0] * 20 + [1] * 40 + [1] * 2 + [0] * 38
    found = compare(model("pruned", [worse]), model("base", [base]))
    only = found.tasks[0]
    assert (only.ours_only, only.theirs_only, only.samples) == (2, 20, 100)
    assert found.result == found.verdict == "worse"
    assert only.difference == found.difference == pytest.approx(-0.18)
    assert only.low < -0.18 < only.high < 0
    assert only.p_mcnemar == pytest.approx(2 * (1 + 22 + 231) / 2**22)
    assert found.p == only.p_bootstrap < 0.05
    assert found.recovery.value == pytest.approx(0.7)
    assert found.detectable == only.detectable == pytest.approx(minimum_detectable(100, 0.22))
    assert compare(model("base", [base]), model("pruned", [worse])).result == "better"
    near = compare(model("pruned", [[*base[:-1], 1]]), model("base", [base]))
    assert near.verdict == "no difference that 100 items can see (below 7.7 points)"
    assert near.p > 0.05


def test_a_handful_of_changes_is_judged_by_the_sign_test():
    """Five changes out of 400, all one way: the bootstrap is sure, the exact test is not."""
    base = [0] * 400
    found = compare(model("tuned", [[1] * 5 + [0] * 395]), model("base", [base]))
    assert found.low > 0
    assert found.tasks[0].p_mcnemar == pytest.approx(0.0625)
    assert found.result == "no difference"
    assert found.recovery is None
    assert compare(model("tuned", [[1] * 8 + [0] * 392]), model("base", [base])).result == "better"


def test_drawing_counts_is_drawing_items():
    rng = np.random.default_rng(1)
    ours, theirs = rng.random(50) < 0.6, rng.random(50) < 0.5
    fast = resample([(task(ours), task(theirs))], 20_000, 3)[:, 0]
    places = rng.integers(0, 50, (20_000, 50))
    plain = np.stack([ours[places].mean(axis=1), theirs[places].mean(axis=1)], axis=1)
    assert np.allclose(fast.mean(axis=0), plain.mean(axis=0), atol=0.003)
    assert np.allclose(np.cov(fast.T), np.cov(plain.T), atol=2e-4)
    for q in (2.5, 50, 97.5):
        assert np.allclose(np.percentile(fast, q, axis=0), np.percentile(plain, q, axis=0), atol=0.021)


def test_draws_are_seeded_and_memory_is_bounded(monkeypatch):
    from regrow.evaluate import resample as module

    rng = np.random.default_rng(1)
    pair = [(task(rng.random(300)), task(rng.random(300)))]
    whole = resample(pair, 500, 7)
    monkeypatch.setattr(module, "_HELD", 3000)  # ten draws at a time
    # The same draws; the last digit of a sum depends on how many rows a matrix product has.
    np.testing.assert_allclose(resample(pair, 500, 7), whole, rtol=1e-13)
    assert not np.array_equal(resample(pair, 500, 8), whole)


def test_scores_between_0_and_1_have_no_mcnemar():
    draw = random.Random(2)
    base = [draw.random() for _ in range(200)]
    ours = [value + 0.02 + 0.05 * (draw.random() - 0.5) for value in base]
    found = compare(model("tuned", [ours]), model("base", [base]))
    assert found.tasks[0].p_mcnemar is None
    assert found.result == "better"
    assert found.tasks[0].detectable < 0.01


def test_metrics_without_items_are_drawn_around_their_score():
    bare = TaskScore(metric="f1,none", value=0.5, stderr=0.02, samples=100)
    lower = bare.model_copy(update={"value": 0.3})
    found = compare(model("m", [lower]), model("base", [bare]))
    assert found.tasks[0].high - found.tasks[0].low == pytest.approx(3.92 * 0.02 * math.sqrt(2), rel=0.05)
    assert found.recovery.method == "independent normal"
    assert found.result == "worse"
    unknown = bare.model_copy(update={"stderr": None})
    found = compare(model("m", [unknown]), model("base", [unknown]))
    assert (found.low, found.p, found.result) == (None, None, "unknown")


def test_interval_and_p_value_agree():
    rng = np.random.default_rng(5)
    for i in range(200):
        found = compare(*draw_study(rng, STUDY), draws=2000, seed=i)
        if abs(found.p - 0.05) > 0.002:
            assert (found.p < 0.05) == (not found.low <= 0 <= found.high)
    assert p_value(np.zeros(2000)) == 1.0


def test_the_same_draws_give_the_same_recovery():
    ours, base = draw_study(np.random.default_rng(3), STUDY)
    assert compare(ours, base).recovery == recovery_interval(ours, base)


@pytest.mark.parametrize(
    ("ours", "message"),
    [
        (model("m", [[1, 0, 1]]), "differ in t0.samples"),
        (model("m", [[1, 0]], batch_size=2), "differ in batch_size"),
        (model("m", [[1, 0], [1, 0]]), "differ in task t1"),
        (model("m", [task([1, 0]).model_copy(update={"questions": "other"})]), "differ in t0.questions"),
        (model("m", [task([1, 0]).model_copy(update={"metric": "f1,none"})]), "differ in t0.metric"),
    ],
)
def test_what_was_not_evaluated_alike_is_not_compared(ours: Scores, message: str):
    with pytest.raises(InputError, match=message):
        compare(ours, model("base", [[1, 0]]))
