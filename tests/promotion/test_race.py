"""Two promoters at once: one wins, the other is told who did, and the record is complete."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from regrow.promotion import Record, promote, verify_record
from tests.promotion.world import EASY, NAME

pytestmark = pytest.mark.processes

ROUNDS = 50

# A process that stays up: on "decide" it asks the gates, on "go" it carries out what they said.
PROMOTER = """
import json, sys
import mlflow
from regrow.promotion import PromotionConflictError, carry_out, decide, promote
from tests.promotion.world import EASY, NAME
name, client, decision = sys.argv[1], None, None
print("ready", flush=True)
for line in sys.stdin:
    word, _, version = line.strip().partition(" ")
    try:
        if word == "use":
            client, said = mlflow.MlflowClient(version), "ready"
        elif word == "decide":
            decision = decide(client, NAME, version, "champion", policy=EASY, who=name)
            said = "decided"
        elif word == "go":
            said = carry_out(client, decision).status
        else:
            said = promote(client, NAME, version, "champion", policy=EASY, who=name).status
    except PromotionConflictError as error:
        said = f"lost: {error}"
    print(json.dumps(said), flush=True)
"""


class Promoter:
    def __init__(self, name):
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROMOTER, name],
            cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def tell(self, word):
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def hear(self):
        line = self.process.stdout.readline().strip()
        return line if line == "ready" else json.loads(line)


@pytest.fixture(scope="module")
def processes():
    both = [Promoter(name) for name in ("ann", "bob")]
    assert [one.hear() for one in both] == ["ready", "ready"]
    yield both
    for one in both:
        one.process.stdin.close()
        one.process.wait(30)


@pytest.fixture
def pair(world, processes):
    for one in processes:
        one.tell(f"use {world.uri}")
    assert [one.hear() for one in processes] == ["ready", "ready"]
    return processes


def test_of_two_that_decided_in_the_same_state_of_affairs_one_wins_in_fifty_races(world, pair):
    versions = [world.simple(seed) for seed in (1, 2, 3)]
    wins = {"ann": 0, "bob": 0}
    for _ in range(ROUNDS):
        # Neither of them races for what is champion already.
        mine, theirs = [one for one in versions if one != world.alias("champion")][:2]
        for promoter, version in zip(pair, (mine, theirs), strict=True):
            promoter.tell(f"decide {version}")
        assert [one.hear() for one in pair] == ["decided", "decided"]
        for promoter in pair:
            promoter.tell("go")
        said = [one.hear() for one in pair]
        assert sorted(one[:4] for one in said) == ["lost", "prom"], said
        winner = 0 if said[0] == "promoted" else 1
        wins[("ann", "bob")[winner]] += 1
        won, lost = (mine, theirs) if winner == 0 else (theirs, mine)
        assert world.alias("champion") == won
        assert f"version {lost} was not promoted, because another came first" in said[1 - winner]
        assert f"of version {won} to champion by {('ann', 'bob')[winner]}" in said[1 - winner]
    lines = Record.find(world.client, NAME).lines()
    assert [line.number for line in lines] == list(range(1, ROUNDS + 1))
    assert all(line.state == "done" for line in lines)
    assert verify_record(world.client, NAME) == []
    assert sum(wins.values()) == ROUNDS


def test_whole_promotions_at_once_leave_one_champion_and_a_complete_record(world, pair):
    versions = [world.simple(seed) for seed in (1, 2, 3)]
    won = 0
    for _ in range(8):
        free = [one for one in versions if one != world.alias("champion")]
        for promoter, version in zip(pair, free, strict=False):
            promoter.tell(f"promote {version}")
        said = [one.hear() for one in pair]
        assert "promoted" in said
        assert all(one == "promoted" or one.startswith("lost: ") for one in said)
        won += said.count("promoted")
    lines = Record.find(world.client, NAME).lines()
    assert len(lines) == won
    assert world.alias("champion") == lines[-1].begun.to.version
    assert verify_record(world.client, NAME) == []


def test_two_that_make_the_record_at_once_make_one(world, pair):
    one, two = world.simple(1), world.simple(2)
    for promoter, version in zip(pair, (one, two), strict=True):
        promoter.tell(f"decide {version}")
    assert [one.hear() for one in pair] == ["decided", "decided"]
    for promoter in pair:
        promoter.tell("go")
    assert sorted(one.hear()[:4] for one in pair) == ["lost", "prom"]
    assert len(Record.find(world.client, NAME).lines()) == 1
    assert promote(world.client, NAME, one, "champion", policy=EASY).status in ("promoted", "unchanged")
