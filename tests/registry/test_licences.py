import json

import pytest

from regrow.lineage import Resource, attest, describe_value, embed
from regrow.registry import LicenceChain, licence_of, licences_of


@pytest.mark.parametrize(
    ("base", "data", "strictest", "unknown"),
    [
        ("Apache-2.0", {}, "Apache-2.0", ()),
        ("apache-2.0", {"a": "MIT"}, "Apache-2.0 AND MIT", ()),
        ("Apache-2.0", {"a": "CC-BY-SA-4.0", "b": "MIT"}, "CC-BY-SA-4.0", ()),
        ("llama3.1", {"a": "cc-by-nc-4.0"}, "CC-BY-NC-4.0", ()),
        ("llama3.1", {"a": "cc-by-sa-3.0"}, "llama3.1", ()),
        ("Apache-2.0", {"a": "house-terms-1"}, "house-terms-1", ()),
        ("Apache-2.0", {"a": None}, "unknown", ("a",)),
        (None, {"a": "MIT"}, "unknown", ("base",)),
        ("other", {}, "unknown", ("base",)),
    ],
)
def test_the_licence_that_asks_for_most_is_named_and_an_unknown_one_is_said(base, data, strictest, unknown):
    chain = LicenceChain.of(base, data)
    assert chain.strictest == strictest
    assert chain.unknown == unknown
    assert LicenceChain.from_tag(chain.to_tag()) == chain
    for name in unknown:
        assert f"Licence unknown of: {name}" in chain.sentence()


@pytest.mark.parametrize("text", ["", "nonsense", "{}", "[1]", '[{"kind": "other"}]', "null"])
def test_a_tag_that_is_no_chain_is_an_empty_one(text):
    assert LicenceChain.from_tag(text).links == ()


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("README.md", "---\nlanguage: en\nlicense: mit\n---\n# A model\n", "MIT"),
        ("README.md", "# A model\nlicense: mit\n", None),
        ("LICENSE", "                 Apache License\n            Version 2.0, January 2004\n", "Apache-2.0"),
        ("LICENSE.txt", "LLAMA 3.1 COMMUNITY LICENSE AGREEMENT\n", "llama3.1"),
        ("LICENCE", "Gemma Terms of Use\n", "gemma"),
        ("COPYING", "GNU GENERAL PUBLIC LICENSE\nVersion 3, 29 June 2007\n", "GPL-3.0-only"),
        ("LICENSE", "Do what is right.", None),
    ],
)
def test_a_folder_says_its_licence(tmp_path, name, text, found):
    (tmp_path / name).write_text(text)
    assert licence_of(tmp_path) == found


def test_statements_name_base_and_data_with_their_licences(tmp_path):
    result = [describe_value("checkpoint", "a" * 64)]
    base = Resource(
        name="source", digest={"sha256": "b" * 64}, uri="hub:org/base@1", annotations={"licence": "MIT"}
    )
    sets = [
        Resource(name="source", digest={"sha256": "c" * 64}, uri="plants.jsonl", annotations=notes)
        for notes in ({"set": "plants", "licence": "CC-BY-SA-4.0"}, {"set": "water"})
    ]
    embed(tmp_path, attest("load_model", result, [base], parameters={}))
    for one in sets:
        embed(tmp_path, attest("distill", [describe_value("dataset", "d" * 64)], [one], parameters={}))
    read = Resource(name="source", digest={"sha256": "e" * 64}, annotations={"set": "calibration"})
    embed(tmp_path, attest("importance", [describe_value("importance", "f" * 64)], [read], parameters={}))
    chain = licences_of(tmp_path)
    assert [(one.kind, one.name, one.licence) for one in chain.links] == [
        ("base", "hub:org/base@1", "MIT"),
        ("data", "plants", "CC-BY-SA-4.0"),
        ("data", "water", None),
    ]
    assert chain.strictest_known == "CC-BY-SA-4.0"
    assert json.loads(chain.to_tag())[2]["licence"] is None
