"""What the registry says counts as far as statements bear it out: of the version, and of what it is compared with."""

import json

import pytest

from regrow.lineage.values import scores_digest
from regrow.promotion import NonInferiority, Policy, Rules, decide, promote, rollback
from regrow.registry.licences import LicenceChain
from tests.promotion.attested import Attested, make
from tests.promotion.world import NAME, right, scores

# The built-in rules but for the licence of the set, which is made up and has none.
POLICY = Policy(champion=Rules(licences=None, non_inferiority=NonInferiority(margin=0.05)))
FREE = Policy(champion=Rules(non_inferiority=NonInferiority(margin=0.05)))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("made"))


@pytest.fixture
def there(world, made):
    """A world in which versions come with statements; MLflow is set to it, as `register` needs."""
    import mlflow

    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(world.uri)
    yield Attested(world, made)
    mlflow.set_tracking_uri(before)


def failed(there, version, policy=POLICY):
    """The gates that fail before champion, by name, with what was found."""
    decision = decide(there.client, NAME, version, "champion", policy=policy)
    return {gate.name: gate.observed for gate in decision.failed}


def test_versions_as_they_were_registered_are_promoted_by_the_default_gates_and_rolled_back(there):
    one, two = there.version(1, right(120)), there.version(2, right(121))
    assert failed(there, one, FREE) == {}
    for version in (one, two):
        outcome = promote(there.client, NAME, version, "champion", policy=POLICY)
        assert outcome.status == "promoted", outcome.text()
    gates = {gate.name: gate.observed for gate in outcome.decision.gates}
    assert not [name for name, said in gates.items() if "not attested" in said or "not known" in said]
    assert {"registry", "data gate: fruit", "scores", "scores of champion (version 1)"} <= set(gates)
    assert rollback(there.client, NAME, policy=POLICY).status == "promoted"
    again = promote(there.client, NAME, two, "champion", policy=POLICY)
    assert again.status == "promoted", again.text()


def better_scores(there, version):
    """The numbers, the tag that names them, and no statement that contradicts them."""
    forged = there.measured(1, right(180))
    there.put(version, forged)
    there.tag(version, "regrow.scores", scores_digest(forged))
    there.forget(version, "*")


def untagged_scores(there, version):
    there.put(version, there.measured(1, right(180)))
    there.client.delete_model_version_tag(NAME, version, "regrow.scores")


def other_licences(there, version):
    there.tag(version, "regrow.licences", LicenceChain.of("MIT", {"fruit": "MIT"}).to_tag())


def edited_verdict(there, version):
    value = json.loads(there.made.verdict)
    value["expectations"][0]["observed"] = "1.0"
    there.client.log_text(there.run(version), json.dumps(value), "validate_data.fruit/gate.json")


def other_data(there, version):
    """Another set with a verdict of its own in place of the one that it was tuned on."""
    value = json.loads(there.made.verdict) | {"digest": "e" * 64}
    there.client.log_text(there.run(version), json.dumps(value), "validate_data.fruit/gate.json")
    there.tag(version, "regrow.data.fruit", "e" * 64)


def worse_base(there, version):
    there.put(version, scores("base", there.made.base.digest, arc=right(60)))


def worse_base_unstated(there, version):
    worse_base(there, version)
    there.forget(version, "evaluate")


FORGED = {
    "scores and their tag, statements removed": (better_scores, "scores", "not attested"),
    "scores, their tag removed": (untagged_scores, "scores", "no tag regrow.scores"),
    "licences": (other_licences, "licence", "tag regrow.licence"),
    "verdict": (edited_verdict, "data gate: fruit", "not the verdict that was stated"),
    "data tag and verdict": (other_data, "registry", "regrow.data.fruit"),
    "scores of the base": (worse_base, "scores of base", "not what was stated"),
    "scores of the base, statements removed": (worse_base_unstated, "scores of base", "not attested"),
    "commit": (lambda t, v: t.tag(v, "regrow.commit", "0" * 40), "registry", "tag regrow.commit"),
}


@pytest.mark.parametrize("case", FORGED)
def test_what_no_statement_bears_out_does_not_pass(there, case):
    forge, gate, said = FORGED[case]
    version = there.version(1, right(120))
    forge(there, version)
    found = failed(there, version, FREE)
    assert said in found[gate], found


def test_a_set_that_the_version_does_not_name_any_more_is_judged_by_what_was_stated(there):
    version = there.version(1, right(120))
    there.client.delete_model_version_tag(NAME, version, "regrow.data.fruit")
    decision = decide(there.client, NAME, version, "champion", policy=POLICY)
    gates = {gate.name: gate for gate in decision.gates}
    assert gates[f"data gate: {there.made.data[:12]}"].passed
    assert "data gate" not in gates


@pytest.mark.parametrize("statements", ["there", "removed"])
def test_a_champion_whose_scores_were_lowered_is_no_reference(there, statements):
    champion, worse = there.version(1, right(124)), there.version(2, right(100))
    assert promote(there.client, NAME, champion, "champion", policy=POLICY).status == "promoted"
    assert list(failed(there, worse)) == ["not worse than champion (version 1)"]
    lowered = there.measured(1, right(90))
    there.put(champion, lowered)
    assert list(failed(there, worse)) == ["scores of champion (version 1)"]
    there.tag(champion, "regrow.scores", scores_digest(lowered))
    if statements == "removed":
        there.forget(champion, "*")
    assert list(failed(there, worse)) == ["scores of champion (version 1)"]


def test_a_version_that_is_edited_cannot_be_rolled_back_to(there):
    one, two = there.version(1, right(120)), there.version(2, right(121))
    for version in (one, two):
        promote(there.client, NAME, version, "champion", policy=POLICY)
    there.tag(one, "regrow.base", "0" * 64)
    outcome = rollback(there.client, NAME, policy=POLICY)
    assert outcome.exit_status == 3
    assert [gate.name for gate in outcome.decision.failed] == ["registry"]
