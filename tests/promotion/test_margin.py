"""Non-inferiority: the bound, and how often a model that is too bad gets through."""

import numpy as np
import pytest

from regrow.promotion.margin import lower_bound
from tests.promotion.world import right, task_score


def pair(ours, theirs):
    return task_score(list(ours)), task_score(list(theirs))


def test_models_that_agree_on_few_items_are_not_shown_to_be_equal():
    same = pair(right(10, 20), right(10, 20))
    assert lower_bound([same], 0.95) < -0.05
    assert lower_bound([pair(right(500, 1000), right(500, 1000))], 0.95) > -0.002


def test_the_bound_lies_below_the_difference_and_falls_with_confidence():
    one = pair(right(110), right(120))
    bounds = [lower_bound([one], confidence) for confidence in (0.5, 0.8, 0.95, 0.99)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[2] < -0.05 <= bounds[0] + 0.01


def test_tasks_weigh_alike():
    long, short = pair(right(500, 1000), right(600, 1000)), pair(right(60, 100), right(50, 100))
    # Ten points lost and ten points won make zero, whatever the numbers of items.
    assert lower_bound([long, short], 0.5) == pytest.approx(0, abs=0.01)


def test_scores_without_items_use_standard_errors_and_without_them_nothing_is_known():
    ours, theirs = pair(right(100), right(100))
    plain = [one.model_copy(update={"items": (), "stderr": 0.01}) for one in (ours, theirs)]
    assert lower_bound([tuple(plain)], 0.95) == pytest.approx(-1.645 * 0.01 * 2**0.5, abs=0.001)
    blind = [one.model_copy(update={"stderr": None}) for one in plain]
    assert lower_bound([tuple(blind)], 0.95) is None


def passes(random, loss, items, discordance, margin, *, studies):
    """Share of studies in which a model that truly loses `loss` is found not to lose `margin`."""
    wins = (discordance - loss) / 2
    found = 0
    for _ in range(studies):
        drawn = random.choice(4, size=items, p=[wins, wins + loss, 0.5 - wins - loss, 0.5 - wins])
        ours, theirs = np.isin(drawn, [0, 2]).astype(float), np.isin(drawn, [1, 2]).astype(float)
        bound = lower_bound(
            [pair(ours.tolist(), theirs.tolist())], 0.95, draws=500, seed=int(random.integers(2**31))
        )
        found += bound > -margin
    return found / studies


@pytest.mark.parametrize(("items", "discordance"), [(60, 0.12), (300, 0.2)])
def test_a_model_at_the_margin_passes_no_more_often_than_one_time_in_twenty(items, discordance):
    # 0.05 with the sampling error of 400 studies, three standard errors.
    assert passes(np.random.default_rng(1), 0.05, items, discordance, 0.05, studies=400) < 0.05 + 0.033


def test_a_model_that_loses_nothing_passes_with_enough_items():
    assert passes(np.random.default_rng(2), 0.0, 1000, 0.2, 0.05, studies=100) > 0.9
