import subprocess
import sys
from pathlib import Path

import pytest

from regrow.errors import InputError
from regrow.lineage import SigningSettings, Verifier, attest, audit_folder, describe_value, embed
from regrow.lineage.signing import SignatureError, signed_digest
from tests.lineage.keys import make_certificates, make_key


@pytest.fixture
def file(tmp_path):
    (tmp_path / "statement.json").write_text('{"a":1}')
    return tmp_path / "statement.json"


def _sign(file, **settings):
    SigningSettings(**settings).signer().sign(file, file.with_suffix(".sig"))
    return file.with_suffix(".sig")


def test_nothing_configured_signs_and_verifies_nothing():
    settings = SigningSettings.from_environment({"REGROW_SIGNING_KEY": " ", "REGROW_VERIFY_ROOTS": ""})
    assert settings.signer() is None
    assert settings.verifier() is None


def test_the_environment_names_the_files():
    settings = SigningSettings.from_environment(
        {
            "REGROW_SIGNING_KEY": "k.pem",
            "REGROW_SIGNING_PASSWORD": "secret",
            "REGROW_SIGNING_CERTIFICATE": "c.pem",
            "REGROW_SIGNING_CHAIN": "a.pem:b.pem",
            "REGROW_VERIFY_KEY": "k.pub",
            "REGROW_VERIFY_ROOTS": "r.pem:s.pem",
        }
    )
    assert [one.name for one in settings.chain] == ["a.pem", "b.pem"]
    assert [one.name for one in settings.verify_roots] == ["r.pem", "s.pem"]
    assert "secret" not in repr(settings)


@pytest.mark.parametrize("curve", ["prime256v1", "secp384r1", "secp521r1"])
def test_a_key_signs_and_its_public_half_verifies(file, tmp_path, curve):
    private, public = make_key(tmp_path, "ours", curve=curve)
    signature = _sign(file, key=private)
    Verifier(key=public).verify(file, signature)
    file.write_text('{"a":2}')
    with pytest.raises(SignatureError, match="other content"):
        Verifier(key=public).verify(file, signature)


def test_another_key_does_not_verify(file, keys, tmp_path):
    _, other = make_key(tmp_path, "other")
    signature = _sign(file, key=keys[0])
    with pytest.raises(SignatureError, match="Key mismatch"):
        Verifier(key=other).verify(file, signature)


def test_a_key_with_a_password(file, tmp_path):
    private, public = make_key(tmp_path, "ours", password="secret")
    Verifier(key=public).verify(file, _sign(file, key=private, password="secret"))
    for password in ({}, {"password": "wrong"}):
        with pytest.raises(InputError, match="REGROW_SIGNING_PASSWORD"):
            SigningSettings(key=private, **password).signer()


def test_certificates_verify_up_to_the_root(file, tmp_path):
    root, middle, leaf, key = make_certificates(tmp_path, "ours")
    other_root, *_ = make_certificates(tmp_path, "other")
    signature = _sign(file, key=key, certificate=leaf, chain=(middle,))
    Verifier(roots=(root,)).verify(file, signature)
    Verifier(roots=(other_root, root)).verify(file, signature)
    with pytest.raises(SignatureError):
        Verifier(roots=(other_root,)).verify(file, signature)
    # Without the intermediate the root cannot be reached.
    with pytest.raises(SignatureError):
        Verifier(roots=(root,)).verify(file, _sign(file, key=key, certificate=leaf))


def test_a_certificate_of_another_key_is_refused(tmp_path, keys):
    _, _, leaf, _ = make_certificates(tmp_path, "ours")
    with pytest.raises(InputError, match="does not match"):
        SigningSettings(key=keys[0], certificate=leaf).signer()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"key": "none.pem"}, "REGROW_SIGNING_KEY: none.pem: no such file"),
        ({"certificate": "c.pem"}, "REGROW_SIGNING_KEY"),
        ({"key": __file__}, "must be a PEM private key"),
    ],
)
def test_a_key_that_cannot_be_used_is_named(settings, message):
    with pytest.raises(InputError, match=message) as caught:
        SigningSettings(**settings).signer()
    assert "\n" not in str(caught.value)


def test_what_cannot_verify_is_named(tmp_path, keys):
    with pytest.raises(InputError, match="no such file"):
        Verifier(key=tmp_path / "none.pub")
    with pytest.raises(InputError, match="cannot be used to verify"):
        Verifier(key=Path(__file__))
    with pytest.raises(InputError, match="not with both"):
        Verifier(key=keys[1], roots=(keys[1],))
    with pytest.raises(InputError, match="not with both"):
        Verifier()


def test_an_rsa_key_is_refused(tmp_path):
    from tests.lineage.keys import openssl

    openssl("genpkey", "-algorithm", "RSA", "-out", tmp_path / "rsa.pem")
    with pytest.raises(InputError, match="P-256"):
        SigningSettings(key=tmp_path / "rsa.pem").signer()


def test_a_file_that_is_no_signature_is_refused(file, keys):
    signature = file.with_suffix(".sig")
    for text in ("", "{}", "[]", '{"dsseEnvelope": {"payload": "e30="}}', '{"dsseEnvelope": {"payload": 3}}'):
        signature.write_text(text)
        with pytest.raises(SignatureError):
            signed_digest(signature)
        with pytest.raises(SignatureError):
            Verifier(key=keys[1]).verify(file, signature)


def test_a_signature_that_ignores_every_path_is_no_signature_of_the_file(tmp_path, file, keys):
    """The library verifies any file against a signed manifest that is empty and ignores it."""
    from model_signing import hashing, signing

    (tmp_path / "empty").mkdir()
    config = signing.Config().use_elliptic_key_signer(private_key=keys[0])
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=["."]))
    config.sign(tmp_path / "empty", file.with_suffix(".sig"))
    with pytest.raises(SignatureError, match=r"no signature of a single file|no Sigstore bundle"):
        Verifier(key=keys[1]).verify(file, file.with_suffix(".sig"))


def test_stock_model_signing_verifies_what_regrow_signed(tmp_path, keys, monkeypatch):
    monkeypatch.setenv("REGROW_SIGNING_KEY", str(keys[0]))
    statement = attest("prune", [describe_value("plan", "ab" * 32)], [], parameters={})
    embed(tmp_path, statement)
    file = tmp_path / "provenance" / statement.file_name
    command = [sys.executable, "-m", "model_signing", "verify", "key", file]
    command += ["--signature", file.with_suffix(".sig"), "--public_key", keys[1]]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "succeeded" in done.stdout
    file.write_text(file.read_text() + " ")
    assert subprocess.run(list(map(str, command)), capture_output=True).returncode != 0


def test_a_signed_chain_in_certificate_mode_verifies(tmp_path, unsigned, monkeypatch):
    from regrow.checkpoint import Checkpoint
    from regrow.lineage import describe_checkpoint
    from tests.lineage.models import HUB, bare_copy

    root, middle, leaf, key = make_certificates(tmp_path, "ours")
    for name, value in {"KEY": key, "CERTIFICATE": leaf, "CHAIN": middle}.items():
        monkeypatch.setenv(f"REGROW_SIGNING_{name}", str(value))
    model = Checkpoint.open(bare_copy(unsigned.base.folder, tmp_path / "model"))
    embed(model.folder, attest("load_model", describe_checkpoint(model), [HUB], parameters={}))
    monkeypatch.setenv("REGROW_VERIFY_ROOTS", str(root))
    verifier = SigningSettings.from_environment().verifier()
    result = audit_folder(model.folder, verifier=verifier)
    assert (result.verified, result.signature) == (True, "valid")
