"""What an audit says of folders that nobody changed, and what it can and cannot tell without keys."""

import json
import time

import pytest

from regrow.checkpoint import Checkpoint
from regrow.errors import InputError
from regrow.lineage import Check, Failure, Findings, Verifier, audit_folder
from tests.lineage.models import bare_copy, copy_of, restate


def test_a_chain_is_walked_back_to_its_sources(unsigned):
    result = audit_folder(unsigned.merged.folder)
    assert result.verified and result.failures == []
    assert (result.digest, result.kind, result.signature) == (
        unsigned.merged.digest,
        "checkpoint",
        "unsigned",
    )
    stages = [(link.stage, link.role) for link in result.chain]
    assert stages[0] == ("merge", "result")
    assert sorted(stages[1:]) == [
        ("distill", "material"),
        ("distill", "material"),
        ("evaluate", "later"),
        ("importance", "material"),
        ("load_model", "material"),
        ("prune", "material"),
        ("tune", "material"),
        ("tune", "material"),
        ("validate", "later"),
        ("validate", "later"),
    ]
    by_id = {link.statement: link for link in result.chain}
    merge = result.chain[0]
    assert {by_id[one.statement].subject for one in merge.materials} == {one.digest for one in unsigned.tuned}
    prune = next(link for link in result.chain if link.stage == "prune")
    assert prune.subject == unsigned.pruned.digest
    assert [(one.name, one.kind) for one in prune.materials] == [
        ("checkpoint", "statement"),
        ("importance", "statement"),
        ("plan", "value"),
    ]
    load = next(link for link in result.chain if link.stage == "load_model")
    assert [(one.kind, one.uri) for one in load.materials] == [
        ("source", "hub:org/base@7e27bd9f95328f0f3b08261d1252705110c806f8")
    ]
    assert all(check.outcome != "failed" for link in result.chain for check in link.checks)


def test_what_was_not_checked_is_said(unsigned, signed, keys):
    notes = "\n".join(audit_folder(unsigned.merged.folder).not_checked)
    assert "nothing here proves who made them" in notes
    assert "hub:org/base@7e27" in notes and "hub:org/questions@v1" in notes
    assert "only the folder and its statements" in notes

    without_key = audit_folder(signed.merged.folder)
    assert without_key.verified and without_key.signature == "unchecked"
    assert any("no key given" in one for one in without_key.not_checked)

    with_key = audit_folder(signed.merged.folder, verifier=Verifier(key=keys[1]))
    assert with_key.verified and with_key.signature == "valid"
    assert not any("signatures" in one for one in with_key.not_checked)


def test_a_data_set_and_every_model_of_the_chain_verify_for_themselves(unsigned):
    for one in (unsigned.base, unsigned.pruned, *unsigned.tuned, *unsigned.data):
        result = audit_folder(one.folder)
        assert result.verified, result.failures
        assert result.digest == one.digest


def test_a_folder_without_provenance_is_not_verified(unsigned, tmp_path):
    folder = bare_copy(unsigned.base.folder, tmp_path / "bare")
    result = audit_folder(folder)
    assert not result.verified
    assert [(one.what, one.where) for one in result.failures] == [("no statement", "provenance/")]
    assert result.failures[0].found == "no provenance/ folder"
    assert result.digest == unsigned.base.digest and result.chain == [] and result.kind == "unknown"
    with pytest.raises(InputError, match="no such folder"):
        audit_folder(folder / "none")


def test_a_key_asks_for_signatures(unsigned, keys):
    result = audit_folder(unsigned.merged.folder, verifier=Verifier(key=keys[1]))
    assert not result.verified and result.signature == "unsigned"
    assert {one.what for one in result.failures} == {"signature"}
    assert len(result.failures) == 11


def test_a_local_base_is_a_source_and_said_so(unsigned, tmp_path):
    from regrow.lineage import attest, describe_checkpoint, embed, material

    (bare_copy(unsigned.base.folder, tmp_path / "base") / "notes.txt").write_text("mine")
    base = Checkpoint.open(tmp_path / "base")
    made = Checkpoint.open(bare_copy(unsigned.base.folder, tmp_path / "made"))
    embed(
        made.folder,
        attest("prune", describe_checkpoint(made), [material(base, "checkpoint")], parameters={}),
    )
    result = audit_folder(made.folder)
    assert result.verified
    assert [one.kind for one in result.chain[0].materials] == ["source"]
    assert any(f"local:base ({base.digest[:12]})" in one for one in result.not_checked)


def test_what_an_unsigned_chain_cannot_prove_a_signed_one_does(unsigned, signed, keys, tmp_path):
    def better_scores(value):
        value["predicate"]["buildDefinition"]["internalParameters"] = {"scores": {"gsm8k": 0.99}}

    forged = copy_of(unsigned.merged.folder, tmp_path / "unsigned")
    restate(forged, "evaluate", better_scores)
    assert audit_folder(forged).verified  # as docs/lineage.md warns

    forged = copy_of(signed.merged.folder, tmp_path / "signed")
    name = restate(forged, "evaluate", better_scores)
    result = audit_folder(forged, verifier=Verifier(key=keys[1]))
    assert [(one.what, one.where) for one in result.failures] == [
        ("signature", f"provenance/evaluate-{name[:16]}.sig")
    ]


def test_further_checks_are_asked_and_counted(unsigned):
    asked = []

    def registry(result):
        asked.append(result.digest)
        return Findings(
            checks=[Check(what="MLflow tag regrow.digest", outcome="passed")],
            not_checked=["ZenML: no server"],
        )

    def store(result):
        assert result.checks[-1].what == "MLflow tag regrow.digest"
        return Findings(failures=[Failure(what="store", where="s3://x", expected="a", found="b")])

    good = audit_folder(unsigned.merged.folder, others=[registry], target="models:/m@champion")
    assert good.verified and good.target == "models:/m@champion"
    assert "ZenML: no server" in good.not_checked
    assert not any("only the folder" in one for one in good.not_checked)
    bad = audit_folder(unsigned.merged.folder, others=[registry, store])
    assert not bad.verified and bad.failures[-1].what == "store"
    assert asked == [unsigned.merged.digest] * 2


def test_a_result_is_json_and_back(unsigned):
    from regrow.lineage import AuditResult

    result = audit_folder(unsigned.merged.folder)
    assert AuditResult.model_validate_json(json.dumps(result.model_dump(mode="json"))) == result


def test_a_long_chain_with_large_statements_is_walked_fast(tmp_path):
    """Thirty stages of a model of 2,000 tensors; the hashing of weights is not what is measured."""
    from regrow.checkpoint import digest_of
    from regrow.lineage import Resource, attest, embed
    from regrow.lineage.describe import manifest_digest

    (tmp_path / "config.json").write_text("{}")
    tensors = {f"model.layers.{i}.weight": f"{i:064x}" for i in range(2000)}
    previous, statements = None, []
    for number in range(30):
        weights = Resource(
            name="model.safetensors",
            digest={"sha256": f"{number:064x}"},
            annotations={"size": 1, "tensors": tensors},
        )
        digest = {"sha256": manifest_digest([weights])}
        before = {"attestation": previous.id} if previous else {"source": "local"}
        named = previous.subject.digest if previous else digest
        previous = attest(
            "tune",
            [Resource(name="checkpoint", digest=digest), weights],
            [Resource(name="checkpoint", digest=named, annotations=before)],
            parameters={},
        )
        statements.append(previous)
    own = Resource(
        name="checkpoint",
        digest={"sha256": digest_of(tmp_path)},
    )
    named = Resource(
        name="checkpoint", digest=previous.subject.digest, annotations={"attestation": previous.id}
    )
    embed(tmp_path, attest("merge", [own], [named], parameters={}), also=statements)
    begun = time.process_time()  # not wall time: the machine may be busy with other things
    result = audit_folder(tmp_path)
    assert time.process_time() - begun < 5
    assert result.verified and len(result.chain) == 31
