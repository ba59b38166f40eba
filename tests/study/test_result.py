"""What the cells of a study say together, on made-up scores whose answer is known."""

import random
import re

import pytest

from regrow.errors import InputError
from regrow.evaluate import Scores, TaskScore, recovery_interval
from regrow.study import Cell, StudyResult, gather, pooled, tables
from regrow.tune.record import TuningRecord

ITEMS = 400
TASKS = ("one", "two")


def scores(name: str, right: dict[str, list[bool]], perplexity: float = 30.0) -> Scores:
    return Scores(
        name=name,
        digest=name,
        parameters=100 if name == "base" else 80,
        flops_per_token=200 if name == "base" else 150,
        perplexity=perplexity,
        perplexity_tokens=1000,
        scores={
            task: TaskScore(
                metric="acc,none",
                value=sum(values) / len(values),
                stderr=0.02,
                samples=len(values),
                items=tuple(map(float, values)),
            )
            for task, values in right.items()
        },
        settings={"batch_size": 16},
        seconds=1.0,
    )


def answers(seed: int, share: float) -> dict[str, list[bool]]:
    """Each item is solved by models whose skill exceeds its difficulty, but for some noise by seed."""
    difficulty, noise = random.Random(0), random.Random(seed)
    return {
        task: [difficulty.random() < share + noise.uniform(-0.05, 0.05) for _ in range(ITEMS)]
        for task in TASKS
    }


def study(
    skills: dict[str, float], seeds: tuple[int, ...] = (0, 1, 2), reference: str = "SFT"
) -> StudyResult:
    base = scores("base", answers(99, 0.8), 20.0)
    cells, found, tunings = [Cell(blocks=6, arm="none", records=None, seed=None)], [], []
    found.append(scores("none", answers(98, 0.5), 60.0))
    for place, (arm, skill) in enumerate(skills.items()):
        for seed in seeds:
            cell = Cell(blocks=6, arm=arm, records=None, seed=seed)
            cells.append(cell)
            found.append(scores(cell.key, answers(100 * place + seed, skill), 40.0 + seed))
            summary = {"tokens": 1000, "seconds": 10.0}
            tunings.append(TuningRecord(dataset=cell.key, digest="d", log=[], summary=summary))
    return gather(cells, base, found, [], tunings, reference=reference, config={"seeds": list(seeds)})


def test_a_row_is_the_mean_over_seeds_with_its_spread():
    result = study({"SFT": 0.6})
    none, sft = result.rows
    runs = [one.scores for one in result.outcomes[1:]]
    assert (none.arm, none.seeds, none.recovery.sd) == ("none", (), None)
    assert (sft.arm, sft.seeds) == ("SFT", (0, 1, 2))
    assert sft.perplexity is not None and sft.perplexity.mean == 41.0 and sft.perplexity.sd == 1.0
    assert sft.mean.mean == pytest.approx(sum(run.mean for run in runs) / 3)
    assert sft.tokens.mean == 1000 and sft.seconds.mean == 10.0
    assert sft.interval.value == pytest.approx(sft.recovery.mean)


def test_the_interval_of_an_arm_is_that_of_the_mean_over_seeds_of_each_item():
    result = study({"SFT": 0.6})
    runs = [one.scores for one in result.outcomes[1:]]
    together = pooled(runs)
    by_hand = [sum(run.scores["one"].items[i] for run in runs) / 3 for i in range(ITEMS)]
    assert together.scores["one"].items == pytest.approx(by_hand)
    assert result.rows[1].interval == recovery_interval(together, result.base)
    assert pooled(runs[:1]).scores["one"].items == runs[0].scores["one"].items


def test_a_clear_difference_is_found_and_none_is_not():
    result = study({"SFT": 0.55, "self-data": 0.7, "twin": 0.55})
    better, twin = result.pairs
    assert (better.ours, better.theirs, better.verdict) == ("self-data", "SFT", "better")
    assert better.p is not None and better.p < 0.01
    assert len(better.by_seed) == 3 and min(better.by_seed) > 0.05
    assert twin.verdict == "not significant"
    assert study({"SFT": 0.7, "self-data": 0.55}).pairs[0].verdict == "worse"


def test_a_difference_that_a_seed_contradicts_is_not_called_significant():
    result = study({"SFT": 0.55, "self-data": 0.7})
    pair = result.pairs[0]
    assert pair.verdict == "better"
    assert pair.model_copy(update={"by_seed": (0.3, 0.3, -0.01)}).verdict == "not significant"
    assert pair.model_copy(update={"p": 0.06}).verdict == "not significant"
    assert pair.model_copy(update={"p": None}).verdict == "unknown"


def test_p_values_are_adjusted_for_the_number_of_comparisons():
    alone = study({"SFT": 0.55, "a": 0.58}).pairs[0]
    among = study({"SFT": 0.55, "a": 0.58, "b": 0.555, "c": 0.545}).pairs[0]
    assert alone.comparison.p is not None and among.comparison.p is not None
    assert alone.comparison.p == pytest.approx(among.comparison.p)
    assert alone.p == alone.comparison.p
    assert among.p == pytest.approx(min(1.0, 3 * among.comparison.p))


def test_pairs_count_only_seeds_that_both_arms_have():
    whole = study({"SFT": 0.55, "self-data": 0.7})
    part = whole.model_copy(
        update={
            "outcomes": tuple(one for one in whole.outcomes if (one.cell.arm, one.cell.seed) != ("SFT", 1))
        }
    )
    assert len(whole.pairs[0].by_seed) == 3
    assert len(part.pairs[0].by_seed) == 2


def test_tables_hold_every_arm_and_say_what_is_not_significant():
    text = re.sub(" +", " ", tables(study({"SFT": 0.55, "self-data": 0.7, "twin": 0.55})))
    for arm in ("unpruned", "none", "SFT", "self-data", "twin"):
        assert f"| {arm} |" in text
    assert "| better |" in text and "| not significant |" in text
    assert "Items: one 400, two 400; perplexity over 1,000 tokens." in text
    assert "## Drift" not in text


def test_a_base_that_solves_nothing_is_refused():
    nothing = {task: [False] * 4 for task in TASKS}
    with pytest.raises(InputError, match=r"evaluation\.tasks"):
        gather([], scores("base", nothing), [], [], [], reference=None, config={})


def test_a_study_survives_its_file():
    result = study({"SFT": 0.55, "self-data": 0.7})
    again = StudyResult.model_validate_json(result.model_dump_json())
    assert again == result
    assert again.rows == result.rows
