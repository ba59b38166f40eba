"""Every gate, passing and failing."""

import json

import pytest

from regrow.lineage import attest, describe_checkpoint, embed
from regrow.promotion import Attestation, NonInferiority, Policy, Rules, decide, promote
from tests.lineage.keys import make_key
from tests.promotion.world import NAME, POLICY, UNATTESTED, right, scores


def gates(world, version, **rules):
    """The gates before champion, by name; everything that is not asked for is off."""
    off = {"data_gate": "ignored", "licences": None, "attestation": UNATTESTED}
    policy = Policy(champion=Rules(**(off | rules)))
    return {gate.name: gate for gate in decide(world.client, NAME, version, "champion", policy=policy).gates}


def test_with_everything_off_record_digest_and_registry_are_asked_all_the_same(world):
    assert list(gates(world, world.version(1))) == ["record", "digest", "registry"]


def test_digest_passes_on_the_files_that_were_registered(world):
    found = gates(world, world.version(1))["digest"]
    assert found.passed and found.observed.startswith("files have ")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_digest_fails_on_a_changed_byte(world, file):
    version = world.version(1)
    path = world.folder / "stored/1/checkpoint" / file
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    assert not gates(world, version)["digest"].passed


def test_digest_fails_on_an_added_file_and_on_files_that_are_gone(world):
    version = world.version(1)
    (world.folder / "stored/1/checkpoint/more.txt").write_text("x")
    assert not gates(world, version)["digest"].passed
    (world.folder / "stored/1/MLmodel").unlink()
    found = gates(world, version)["digest"]
    assert not found.passed and "cannot be read" in found.observed


def test_digest_fails_on_what_mlflow_loads_beside_the_checkpoint(world):
    version = world.version(1)
    template = world.folder / "stored/1/components/tokenizer/chat_template.jinja"
    template.write_text("evil" + template.read_text())
    found = gates(world, version)["digest"]
    assert not found.passed
    assert found.observed.endswith("file changed: components/tokenizer/chat_template.jinja")


def test_digest_fails_without_a_tag_to_compare_with(world):
    version = world.version(1)
    world.client.delete_model_version_tag(NAME, version, "regrow.digest")
    assert not gates(world, version)["digest"].passed


def test_a_model_binary_outside_of_the_stored_folder_is_not_followed(world):
    version = world.version(1)
    model = world.folder / "stored/1/MLmodel"
    model.write_text(model.read_text().replace("checkpoint", "../../stored/1/checkpoint/.."))
    found = gates(world, version)["digest"]
    assert not found.passed and "model_binary" in found.observed


def test_floors(world):
    version = world.version(1, tasks={"arc": right(120), "sums": right(20)})
    found = gates(world, version, floors={"arc": 0.6, "sums": 0.3, "riddles": 0.1})
    assert {name: gate.passed for name, gate in found.items() if name.startswith("floor")} == {
        "floor: arc": True, "floor: sums": False, "floor: riddles": False,
    }  # fmt: skip
    assert found["floor: sums"].observed == "0.1000" and found["floor: riddles"].observed == "not evaluated"


def test_not_worse_than_the_base_while_there_is_no_champion(world):
    rule = NonInferiority(base_margin=0.1)
    good = gates(
        world, world.version(1, tasks={"arc": right(124)}, base={"arc": right(124)}), non_inferiority=rule
    )
    assert good["not worse than base"].passed
    bad = gates(
        world, world.version(2, tasks={"arc": right(100)}, base={"arc": right(124)}), non_inferiority=rule
    )
    assert not bad["not worse than base"].passed
    assert "difference -12.00 points" in bad["not worse than base"].observed


def test_not_worse_than_the_champion_once_there_is_one(world):
    champion = world.version(1, tasks={"arc": right(120)})
    promote(world.client, NAME, champion, "champion", policy=POLICY)
    rule = NonInferiority(margin=0.05)
    name = f"not worse than champion (version {champion})"
    assert gates(world, world.version(2, tasks={"arc": right(119)}), non_inferiority=rule)[name].passed
    assert not gates(world, world.version(3, tasks={"arc": right(108)}), non_inferiority=rule)[name].passed
    against_base = NonInferiority(against="base")
    assert "not worse than base" in gates(world, world.version(4), non_inferiority=against_base)


def test_the_first_champion_needs_to_be_no_worse_than_nobody(world):
    found = gates(world, world.version(1), non_inferiority=NonInferiority(against="champion"))
    assert found["not worse"].passed and found["not worse"].observed == "there is no champion yet"


def test_a_margin_for_each_task(world):
    version = world.version(
        1, tasks={"arc": right(140), "sums": right(60)}, base={"arc": right(100), "sums": right(100)}
    )
    found = gates(world, version, non_inferiority=NonInferiority(task_margin=0.1))
    assert found["not worse than base"].passed
    assert found["not worse than base: arc"].passed
    assert not found["not worse than base: sums"].passed


def test_what_is_not_known_does_not_pass(world):
    rule = {"non_inferiority": NonInferiority()}
    unknown = gates(world, world.version(1, tasks={}), **rule)["not worse than base"]
    assert not unknown.passed and "no scores" in unknown.observed
    unlike = gates(world, world.version(2, base={"sums": right(3)}), **rule)["not worse than base"]
    assert not unlike.passed and "differ in task" in unlike.observed
    bare = gates(world, world.simple(3), **rule)["not worse than base"]
    assert not bare.passed


def test_scores_that_were_edited_are_told_by_the_digest_of_the_tag(world):
    from regrow.lineage.values import scores_digest

    version = world.version(1)
    found = world.client.get_model_version(NAME, version)
    digest = found.tags["regrow.digest"]
    own = scores("merged", digest, arc=right(120))
    world.client.set_model_version_tag(NAME, version, "regrow.scores", scores_digest(own))
    rule = {"non_inferiority": NonInferiority()}
    assert gates(world, version, **rule)["scores"].passed
    better = scores("merged", digest, arc=right(199))
    world.client.log_text(found.run_id, better.model_dump_json(), "evaluate.merged/scores.json")
    assert not gates(world, version, **rule)["scores"].passed


def test_scores_of_another_checkpoint_do_not_count(world):
    version = world.version(1)
    run = world.client.get_model_version(NAME, version).run_id
    foreign = scores("merged", "f" * 64, arc=right(199))
    world.client.log_text(run, foreign.model_dump_json(), "evaluate.merged/scores.json")
    found = gates(world, version, non_inferiority=NonInferiority())["not worse than base"]
    assert not found.passed and "no scores" in found.observed


def test_data_gate(world):
    rule = {"data_gate": "required"}
    assert gates(world, world.version(1), **rule)["data gate: sums"].passed
    two = gates(world, world.version(2, gates={"sums": True, "riddles": False}), **rule)
    assert two["data gate: sums"].passed and not two["data gate: riddles"].passed
    missing = world.version(3, tags={"regrow.data.lost": "d" * 64})
    assert (
        gates(world, missing, **rule)["data gate: lost"].observed == "no verdict in the version's MLflow run"
    )
    other = world.version(4)
    world.client.set_model_version_tag(NAME, other, "regrow.data.sums", "e" * 64)
    assert "other data" in gates(world, other, **rule)["data gate: sums"].observed
    assert not gates(world, world.simple(5), **rule)["data gate"].passed


@pytest.mark.parametrize(
    ("licence", "allowed", "passed"),
    [
        ("Apache-2.0", ("permissive",), True),
        ("Apache-2.0", ("apache-2.0", "mit"), True),
        ("CC0-1.0", ("public domain", "permissive"), True),
        ("llama3.2", ("public domain", "permissive"), False),
        ("llama3.2", ("permissive", "llama3.2"), True),
        ("CC-BY-NC-4.0", ("permissive",), False),
        ("our own", ("permissive",), False),
        (None, ("permissive",), False),
    ],
)
def test_licence(world, licence, allowed, passed):
    found = gates(world, world.version(1, licence=licence), licences=allowed)["licence"]
    assert found.passed is passed
    if not passed:
        assert f"base: {licence or 'unknown'}" in found.observed


def test_a_licence_that_nobody_recorded_does_not_pass(world):
    assert (
        gates(world, world.simple(1), licences=("permissive",))["licence"].observed
        == "no licence is recorded"
    )


def attested(world, seed, *, key=None, monkeypatch=None):
    """A version whose checkpoint carries a statement, signed if a key is given."""
    from regrow.checkpoint import Checkpoint

    version = world.version(seed)
    checkpoint = Checkpoint.open(world.folder / f"stored/{seed}/checkpoint")
    statement = attest("load_model", describe_checkpoint(checkpoint), [], parameters={"source": "made"})
    if key:
        monkeypatch.setenv("REGROW_SIGNING_KEY", str(key))
    embed(checkpoint.folder, statement)
    if key:
        monkeypatch.delenv("REGROW_SIGNING_KEY")
    return version


def test_attestation_passes_where_the_chain_verifies_and_fails_where_there_is_none(world):
    rule = {"attestation": Attestation()}
    good = gates(world, attested(world, 1), **rule)
    assert good["attestation"].passed and good["attestation"].observed == "1 statements verify"
    assert good["signature"].passed and good["signature"].observed == "unsigned"
    bad = gates(world, world.version(2), **rule)
    assert not bad["attestation"].passed
    assert bad["digest"].passed


def test_an_attestation_that_was_edited_fails_also_where_none_is_required(world):
    version = attested(world, 1)
    (file,) = (world.folder / "stored/1/checkpoint/provenance").glob("*.json")
    text = json.loads(file.read_text())
    text["predicate"]["buildDefinition"]["externalParameters"]["source"] = "elsewhere"
    file.write_text(json.dumps(text))
    for required in (True, False):
        found = gates(world, version, attestation=Attestation(required=required))
        assert not found["attestation"].passed
        assert found["digest"].passed


@pytest.mark.parametrize(
    ("signed", "given", "rule", "passed"),
    [
        ("ours", "ours", "required", True),
        ("ours", "ours", "with_key", True),
        ("ours", "theirs", "with_key", False),
        ("ours", "theirs", "ignored", False),
        ("ours", None, "with_key", True),
        ("ours", None, "required", False),
        (None, "ours", "with_key", False),
        (None, "ours", "ignored", True),
        (None, None, "required", False),
        (None, None, "with_key", True),
    ],
)
def test_signature(world, tmp_path, monkeypatch, signed, given, rule, passed):
    keys = {name: make_key(tmp_path, name) for name in ("ours", "theirs")}
    version = attested(world, 1, key=keys[signed][0] if signed else None, monkeypatch=monkeypatch)
    if given:
        monkeypatch.setenv("REGROW_VERIFY_KEY", str(keys[given][1]))
    found = gates(world, version, attestation=Attestation(signature=rule))
    assert found["signature"].passed is passed, found["signature"].observed


def test_the_default_policy_asks_for_provenance_before_staging_and_for_scores_before_champion(world):
    version = attested(world, 1)
    asked = {
        target: [gate.name for gate in decide(world.client, NAME, version, target).gates]
        for target in ("staging", "champion")
    }
    provenance = ["record", "digest", "attestation", "signature", "registry", "data gate: sums", "licence"]
    scored = ["scores", "scores of base", "not worse than base"]
    assert asked == {"staging": provenance, "champion": [*provenance, *scored]}


def test_the_example_policy_is_a_policy_and_says_the_defaults():
    from pathlib import Path

    from regrow.commands.promote import read_policy

    assert read_policy(Path(__file__).parents[2] / "configs/policy.yaml") == Policy()
