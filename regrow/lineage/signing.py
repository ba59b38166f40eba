"""Signatures of statements, by OpenSSF model-signing: offline, with a key or with certificates.

A signature is a Sigstore bundle over the one file that it lies beside, so that
`model_signing verify key FILE --signature FILE.sig --public_key KEY` checks it without regrow.
"""

import base64
import json
import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from regrow.errors import InputError
from regrow.files import sha256_of

_PREDICATE = "https://model_signing/signature/v1.0"


class SignatureError(Exception):
    """A signature does not hold; the message says why."""


class SigningSettings(BaseModel):
    """Which keys sign and verify."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: Path | None = Field(None, description="REGROW_SIGNING_KEY: private key, PEM, NIST curve")
    password: SecretStr | None = Field(None, description="REGROW_SIGNING_PASSWORD: the key's password")
    certificate: Path | None = Field(
        None, description="REGROW_SIGNING_CERTIFICATE: certificate of the key; signs in certificate mode"
    )
    chain: tuple[Path, ...] = Field(
        (), description="REGROW_SIGNING_CHAIN: further certificates, separated as PATH is"
    )
    verify_key: Path | None = Field(None, description="REGROW_VERIFY_KEY: public key, PEM")
    verify_roots: tuple[Path, ...] = Field(
        (), description="REGROW_VERIFY_ROOTS: certificates that are trusted, separated as PATH is"
    )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Read the settings from environment variables; without them nothing is signed or verified."""
        found = os.environ if environment is None else environment

        def one(name: str) -> Path | None:
            return Path(text) if (text := found.get(name, "").strip()) else None

        def several(name: str) -> tuple[Path, ...]:
            return tuple(Path(text) for text in found.get(name, "").split(os.pathsep) if text.strip())

        password = found.get("REGROW_SIGNING_PASSWORD")
        return cls(
            key=one("REGROW_SIGNING_KEY"),
            password=SecretStr(password) if password else None,
            certificate=one("REGROW_SIGNING_CERTIFICATE"),
            chain=several("REGROW_SIGNING_CHAIN"),
            verify_key=one("REGROW_VERIFY_KEY"),
            verify_roots=several("REGROW_VERIFY_ROOTS"),
        )

    def signer(self) -> "Signer | None":
        """Return what signs; nothing when no key is configured.

        Raises:
            InputError: the key or the certificate cannot be used.
        """
        if self.key is None:
            if self.certificate or self.chain:
                raise InputError("REGROW_SIGNING_CERTIFICATE: also name the certificate's REGROW_SIGNING_KEY")
            return None
        return Signer(self)

    def verifier(self) -> "Verifier | None":
        """Return what verifies; nothing when no key is configured.

        Raises:
            InputError: the key or the certificates cannot be used, or both are given.
        """
        if self.verify_key is None and not self.verify_roots:
            return None
        return Verifier(key=self.verify_key, roots=self.verify_roots)


class Signer:
    """Signs files with the key of the settings."""

    def __init__(self, settings: SigningSettings) -> None:
        signing = _library("signing")
        assert settings.key is not None
        _must_exist("REGROW_SIGNING_KEY", settings.key)
        self._config = signing.Config()
        try:
            if settings.certificate is not None:
                if settings.password is not None:
                    raise InputError(
                        "REGROW_SIGNING_PASSWORD: model-signing takes no password in certificate mode; "
                        "give it a key without one, readable by its owner alone"
                    )
                _must_exist("REGROW_SIGNING_CERTIFICATE", settings.certificate)
                for path in settings.chain:
                    _must_exist("REGROW_SIGNING_CHAIN", path)
                # An empty chain is refused by the library; a certificate of a root needs no other.
                self._config.use_certificate_signer(
                    private_key=settings.key,
                    signing_certificate=settings.certificate,
                    certificate_chain=settings.chain or (settings.certificate,),
                )
            else:
                password = settings.password.get_secret_value().encode() if settings.password else None
                self._config.use_elliptic_key_signer(private_key=settings.key, password=password)
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(
                f"REGROW_SIGNING_KEY: {settings.key} cannot be used ({_line(error)}); it must be a PEM private key "
                "of curve P-256, P-384 or P-521, with REGROW_SIGNING_PASSWORD where it is encrypted"
            ) from None

    def sign(self, file: Path, signature: Path) -> None:
        """Sign one file.

        Args:
            file: the file.
            signature: where the Sigstore bundle is written.
        """
        self._config.sign(file, signature)


class Verifier:
    """Verifies signatures against one public key, or against certificates that are trusted.

    Args:
        key: the public key, PEM.
        roots: PEM files with certificates that are trusted.

    Raises:
        InputError: none or both are given, or they cannot be used.
    """

    def __init__(self, *, key: Path | None = None, roots: tuple[Path, ...] = ()) -> None:
        if (key is None) == (not roots):
            raise InputError(
                "verify with a public key (--key, REGROW_VERIFY_KEY) or with certificates (--roots, "
                "REGROW_VERIFY_ROOTS), not with both"
            )
        verifying = _library("verifying")
        self._new = verifying.Config
        self._key, self._roots = key, roots
        for path in (key, *roots):
            if path is not None:
                _must_exist("--key" if path == key else "--roots", path)
        self.who = f"key {key.name}" if key else f"certificates {', '.join(one.name for one in roots)}"
        try:
            self._configured()
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{key or roots[0]}: cannot be used to verify ({_line(error)})") from None

    def verify(self, file: Path, signature: Path) -> None:
        """Check that `signature` is a valid one over `file`.

        Raises:
            SignatureError: it is not.
        """
        # What was signed must be this file alone: a payload may also name paths to ignore.
        if (signed := signed_digest(signature)) != (found := sha256_of(file)):
            raise SignatureError(f"it signs other content ({signed[:12]}, not {found[:12]})")
        try:
            # The library refuses symbolic links, of which the hub's cache consists.
            self._configured().verify(file.resolve(), signature)
        except Exception as error:
            raise SignatureError(_line(error)) from None

    def _configured(self) -> Any:
        if self._key is not None:
            return self._new().use_elliptic_key_verifier(public_key=self._key)
        return self._new().use_certificate_verifier(certificate_chain=self._roots)


def signed_digest(signature: Path) -> str:
    """Return the SHA-256 of the file that a signature speaks of; whether it is genuine, only a key can tell.

    Raises:
        SignatureError: it is no signature of a single file.
    """
    try:
        bundle = json.loads(signature.read_bytes())
        payload = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"], validate=True))
        resources = payload["predicate"]["resources"]
        digest = resources[0]["digest"]
        if payload["predicateType"] != _PREDICATE or len(resources) != 1 or not isinstance(digest, str):
            raise SignatureError("it is no signature of a single file")
        if resources[0]["name"] != "." or resources[0]["algorithm"] != "sha256":
            raise SignatureError("it is no signature of a single file by SHA-256")
    except FileNotFoundError:
        raise SignatureError("it is missing") from None
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise SignatureError(f"it is no Sigstore bundle of model-signing ({_line(error)})") from None
    return digest


def _library(name: str) -> Any:
    try:
        return import_module(f"model_signing.{name}")
    except ModuleNotFoundError as error:
        # model-signing imports pyOpenSSL without asking for it among its requirements.
        needed = {"OpenSSL": "pyopenssl", "model_signing": "model-signing"}.get(error.name or "", error.name)
        raise InputError(f"signatures need {needed}; install regrow[pipeline]") from None


def _must_exist(name: str, path: Path) -> None:
    if not path.is_file():
        raise InputError(f"{name}: {path}: no such file")


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__
