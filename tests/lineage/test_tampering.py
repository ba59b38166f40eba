"""Whatever is tampered with is detected, and its place is named."""

import pytest

from regrow.lineage import Verifier, audit_folder
from tests.lineage.keys import make_key
from tests.lineage.models import copy_of
from tests.lineage.tampering import CASES, DATA, SIGNED


def _places(result):
    assert not result.verified
    return {(one.what, one.where) for one in result.failures}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["unsigned", "signed"])
def test_a_tampered_model_is_detected_and_its_place_named(name, kind, request, keys, tmp_path):
    chain = request.getfixturevalue(kind)
    folder = copy_of(chain.merged.folder, tmp_path / "model")
    expected = CASES[name](folder, chain)
    verifier = Verifier(key=keys[1]) if kind == "signed" else None
    assert expected
    assert expected <= _places(audit_folder(folder, verifier=verifier))


@pytest.mark.parametrize("name", CASES)
def test_in_a_signed_model_it_is_found_without_the_key_too(name, signed, tmp_path):
    folder = copy_of(signed.merged.folder, tmp_path / "model")
    expected = CASES[name](folder, signed)
    assert expected
    assert expected <= _places(audit_folder(folder))


@pytest.mark.parametrize("name", SIGNED)
def test_a_tampered_signature_is_detected_and_its_place_named(name, signed, keys, tmp_path):
    folder = copy_of(signed.merged.folder, tmp_path / "model")
    expected = SIGNED[name](folder, signed, keys)
    assert expected
    assert expected <= _places(audit_folder(folder, verifier=Verifier(key=keys[1])))


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("kind", ["unsigned", "signed"])
def test_a_tampered_data_set_is_detected_and_its_place_named(name, kind, request, keys, tmp_path):
    chain = request.getfixturevalue(kind)
    folder = copy_of(chain.data[0].folder, tmp_path / "data")
    expected = DATA[name](folder, chain)
    verifier = Verifier(key=keys[1]) if kind == "signed" else None
    assert expected
    assert expected <= _places(audit_folder(folder, verifier=verifier))


def test_the_wrong_key_verifies_nothing(signed, tmp_path):
    _, other = make_key(tmp_path, "other")
    result = audit_folder(signed.merged.folder, verifier=Verifier(key=other))
    assert result.signature == "invalid"
    assert {one.what for one in result.failures} == {"signature"}
    assert len(result.failures) == len(result.chain) == 11


@pytest.mark.parametrize(
    "name",
    [
        "one_bit_in_one_tensor",
        "swapped_shards",
        "the_chat_template",
        "code_is_added",
        "the_scores",
        "a_file_among_the_statements",
    ],
)
def test_only_what_was_touched_is_named(name, unsigned, tmp_path):
    folder = copy_of(unsigned.merged.folder, tmp_path / "model")
    expected = CASES[name](folder, unsigned)
    assert _places(audit_folder(folder)) - {("digest", "the folder")} == expected


def test_there_are_enough_cases():
    assert len(CASES) + len(SIGNED) + len(DATA) >= 70
