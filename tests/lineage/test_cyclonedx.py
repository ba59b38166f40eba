import json
import re
from urllib.parse import unquote

import pytest
from cyclonedx.model.bom import Bom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from regrow.cli import main
from regrow.errors import InputError
from regrow.lineage import attest, chain, describe_value, material
from regrow.lineage.cyclonedx import bill_of_materials
from regrow.lineage.statement import Resource
from tests.lineage.made import merged_model


def test_the_bill_names_every_model_of_the_chain_with_digest_licence_and_who_came_from_whom(tmp_path):
    model = merged_model(tmp_path)
    bill = bill_of_materials(model)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None
    merge = chain(model.folder)[-1]
    pruned = merge.materials[0].sha256
    root = bill["metadata"]["component"]
    assert root["hashes"] == [{"alg": "SHA-256", "content": model.digest}]
    assert root["type"] == "machine-learning-model"
    assert root["modelCard"]["modelParameters"]["modelArchitecture"] == "LlamaForCausalLM"
    by_ref = {one["bom-ref"]: one for one in bill["components"]}
    assert {one.split(":")[0] for one in by_ref} == {"checkpoint", "source"}
    source = next(one for ref, one in by_ref.items() if ref.startswith("source:"))
    assert source["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    needs = {one["ref"]: one.get("dependsOn", []) for one in bill["dependencies"]}
    assert needs[f"checkpoint:{model.digest}"] == [f"checkpoint:{pruned}"]
    (base,) = needs[f"checkpoint:{pruned}"]
    assert needs[base] == [source["bom-ref"]]


def test_training_sets_and_measured_figures_stand_in_the_model_card(tmp_path):
    model = merged_model(tmp_path)
    rows = describe_value("dataset", "a" * 64)
    tuned = attest("tune", [material(model, "checkpoint")], [rows], parameters={"method": "sft"})
    scores = attest(
        "evaluate", [describe_value("scores", "b" * 64)], [material(model, "checkpoint")], parameters={},
        details={"arc_easy": 0.5, "note": "not a number"},
    )  # fmt: skip
    card = bill_of_materials(model, also=[tuned, scores])["metadata"]["component"]["modelCard"]
    assert card["modelParameters"]["datasets"] == [{"ref": f"dataset:{'a' * 64}"}]
    assert card["quantitativeAnalysis"]["performanceMetrics"] == [{"type": "arc_easy", "value": "0.5"}]


NAMES = (
    "50%.jsonl",
    "a b.jsonl",
    "größe.jsonl",
    "a#b#c.jsonl",
    "25%20 <x>|`^\\'\"{[%zz]}.jsonl",
    "%41.jsonl",
)


def test_a_source_may_have_any_name(tmp_path):
    model = merged_model(tmp_path)
    files = [
        Resource(name="source", digest={"sha256": f"{i:064x}"}, uri=f"local:{name}")
        for i, name in enumerate(NAMES)
    ]
    hub = Resource(name="source", digest={"sha256": "e" * 64}, uri="hub:org/name@main#config/split")
    web = Resource(name="source", digest={"sha256": "f" * 64}, uri="https://example.org/a%20b?c=50%#d e")
    loaded = attest("tune", [material(model, "checkpoint")], [*files, hub, web], parameters={})
    bill = bill_of_materials(model, also=[loaded])
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None
    urls = {
        one["hashes"][0]["content"]: one["externalReferences"][0]["url"]
        for one in bill["components"]
        if one["type"] != "application" and one.get("externalReferences")
    }
    for one in files:
        url = urls[one.sha256]
        assert unquote(url) == one.uri
        assert re.fullmatch(r"(?:[\w.~:/?@!$&()*+,;=-]|%[0-9A-F]{2})+", url, re.ASCII)
    assert urls[hub.sha256] == hub.uri
    assert urls[web.sha256] == "https://example.org/a%20b?c=50%25#d%20e"
    again = Bom.from_json(bill)
    assert {str(ref.url) for one in again.components for ref in one.external_references} == set(urls.values())


def test_a_model_without_statements_has_no_bill(tiny):
    with pytest.raises(InputError, match="carries no statement about itself"):
        bill_of_materials(tiny)


def test_the_command_writes_the_file(tmp_path, capfd):
    model = merged_model(tmp_path)
    out = tmp_path / "bill.json"
    assert main(["export", str(model.folder), "--cyclonedx", "--out", str(out), "--json"]) == 0
    assert json.loads(out.read_text())["bomFormat"] == "CycloneDX"
    assert json.loads(capfd.readouterr().out)["components"] >= 4
