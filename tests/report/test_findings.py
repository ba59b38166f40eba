"""What the page says of arms, on studies whose outcome is known."""

from collections.abc import Mapping

import pytest

from regrow import report
from regrow.evaluate.scores import Scores, TaskScore
from regrow.report.study.findings import findings
from regrow.study import Cell, StudyResult, gather
from regrow.tune.record import TuningRecord
from tests.report.page import Page

ITEMS = 200


def solved(name: str, count: int, *, items: bool = True) -> Scores:
    """A model that solves the first so many items."""
    values = tuple(float(i < count) for i in range(ITEMS))
    score = TaskScore(
        metric="acc,none", value=count / ITEMS, stderr=0.03 if items else None, samples=ITEMS,
        items=values if items else (),
    )  # fmt: skip
    return Scores(
        name=name, digest=name, parameters=100, flops_per_token=100, perplexity=None, perplexity_tokens=0,
        scores={"piqa": score}, settings={}, seconds=0.0,
    )  # fmt: skip


def study(
    found: Mapping[int, Mapping[str, int]],
    reference: str = "SFT",
    *,
    items: bool = True,
    untuned: str = "none",
) -> StudyResult:
    """By size of cut and arm: items that are solved; the unpruned model solves 160."""
    cells, scores, tunings = [], [], []
    for blocks, arms in found.items():
        for arm, count in arms.items():
            for seed in (0, 1) if arm != untuned else (None,):
                cells.append(Cell(blocks=blocks, arm=arm, records=None, seed=seed))
                scores.append(solved(cells[-1].key, count, items=items))
                if seed is not None:
                    facts = {"tokens": 10, "seconds": 1.0}
                    tunings.append(TuningRecord(dataset=cells[-1].key, digest="d", log=[], summary=facts))
    return gather(
        cells, solved("base", 160, items=items), scores, [], tunings, reference=reference, config={}
    )


def test_an_arm_that_is_better_is_said_to_be():
    result = study({3: {"none": 60, "SFT": 100, "good": 140, "same": 101, "bad": 70}})
    found = findings(result)
    assert found.headline.startswith("good recovers most, 87.5 % (95 % interval ")
    assert found.headline.endswith("of the unpruned model's mean score with 3 blocks removed.")
    assert found.lead.startswith("The lead over SFT is significant with 3 blocks removed (+20.0 points, p")
    assert [arm for arm, _ in found.better] == ["good"]
    assert [arm for arm, _ in found.worse] == ["bad"]
    assert [arm for arm, _ in found.undecided] == ["same"]
    assert found.better[0][1].startswith("+20.0 points (+")
    text = Page(report.study_page(result)).text
    assert "Better than SFT good +20.0 points" in text
    assert "Worse than SFT bad \u221215.0 points" in text
    assert "No significant difference same +0.5 points" in text


def test_a_lead_within_chance_is_not_called_one():
    found = findings(study({3: {"SFT": 100, "same": 102}}))
    assert found.headline.startswith("same recovers most")
    assert found.lead.startswith("The lead over SFT is not significant with 3 blocks removed (+1.0 points")
    assert not found.better
    assert not found.worse


def test_the_reference_may_be_the_best():
    found = findings(study({3: {"SFT": 140, "bad": 70, "same": 139}}))
    assert found.headline.startswith("SFT recovers most")
    assert found.lead == "With 3 blocks removed SFT is significantly ahead of bad, but not of the other arm."
    found = findings(study({3: {"SFT": 140, "same": 139}}))
    assert found.lead == "With 3 blocks removed SFT is not significantly ahead of any other arm."


def test_different_arms_may_lead_at_different_sizes():
    found = findings(
        study({1: {"SFT": 100, "good": 140}, 3: {"SFT": 90, "good": 88}, 5: {"SFT": 40, "good": 90}})
    )
    assert found.headline.startswith("No arm is best at every size of cut: good recovers most, 87.5 %")
    assert "with 1 block removed and 56.2 %" in found.headline
    assert "; SFT, 56.2 %" in found.headline
    assert "significant with 1 block removed (+20.0 points" in found.lead
    assert "and with 5 blocks removed (+25.0 points" in found.lead
    assert "With 3 blocks removed SFT is not significantly ahead" in found.lead


def test_one_arm_that_leads_everywhere_is_told_once():
    found = findings(study({3: {"SFT": 100, "good": 140}, 6: {"SFT": 90, "good": 91}}))
    assert found.headline.startswith("good recovers most at every size of cut, 87.5 %")
    assert "is significant with 3 blocks removed" in found.lead
    assert "but not significant with 6 blocks removed" in found.lead


def test_an_untuned_arm_that_leads_was_not_compared():
    found = findings(study({3: {"none": 120, "SFT": 100, "other": 90}}))
    assert found.headline.startswith("none recovers most")
    assert found.lead == "With 3 blocks removed none leads, which was not compared with SFT."


def test_nothing_to_compare_says_nothing_of_significance():
    result = study({3: {"none": 60, "SFT": 100}})
    found = findings(result)
    assert found.lead == ""
    assert not (found.better or found.worse or found.undecided)
    assert "significant" not in Page(report.study_page(result)).text


@pytest.mark.parametrize("good", [140, 100])
def test_without_scores_of_items_nothing_is_called_significant(good: int):
    result = study({3: {"SFT": 90, "good": good}}, items=False)
    found = findings(result)
    assert found.headline.startswith("good recovers most")
    assert "95 %" not in found.headline
    assert found.lead == ""
    assert [arm for arm, _ in found.unknown] == ["good"]
    assert "Not tested good" in Page(report.study_page(result)).text


def test_many_comparisons_are_counted():
    arms = {"SFT": 100} | {f"arm {i}": 100 + i % 3 for i in range(1, 8)}
    found = findings(study({3: arms, 6: arms}))
    assert found.undecided[0] == ("arm 1", "in 2 comparisons")
    assert len(found.undecided) == 7
