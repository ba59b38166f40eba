"""Keys and certificates, made by the openssl command as docs/lineage.md says."""

import subprocess
from pathlib import Path


def openssl(*arguments: str | Path, **more) -> None:
    """Run openssl."""
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, **more)


def make_key(folder: Path, name: str, *, curve: str = "prime256v1", password: str | None = None):
    """Make a key pair; return the private and the public file."""
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    cipher = ["-aes256", "-pass", f"pass:{password}"] if password else []
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", f"ec_paramgen_curve:{curve}", *cipher, "-out", private)
    opened = ["-passin", f"pass:{password}"] if password else []
    openssl("pkey", "-in", private, *opened, "-pubout", "-out", public)
    return private, public


def make_certificates(folder: Path, name: str):
    """Make a root, an intermediate and a signing certificate; return root, intermediate, certificate and key."""
    root_key, _ = make_key(folder, f"{name}-root")
    middle_key, _ = make_key(folder, f"{name}-middle")
    key, _ = make_key(folder, f"{name}-signer")
    root, middle, leaf = (folder / f"{name}-{one}.crt" for one in ("root", "middle", "signer"))
    openssl(
        "req", "-x509", "-new", "-key", root_key, "-subj", f"/CN={name} root", "-days", "30", "-out", root,
        "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
    )  # fmt: skip
    _issue(folder, middle_key, f"{name} middle", root, root_key, middle, "CA:TRUE", "keyCertSign")
    _issue(folder, key, f"{name} signer", middle, middle_key, leaf, "CA:FALSE", "digitalSignature")
    return root, middle, leaf, key


def _issue(folder, key, subject, issuer, issuer_key, out, constraint, usage):
    request, extensions = out.with_suffix(".csr"), out.with_suffix(".ext")
    extensions.write_text(f"basicConstraints=critical,{constraint}\nkeyUsage=critical,{usage}\n")
    openssl("req", "-new", "-key", key, "-subj", f"/CN={subject}", "-out", request)
    openssl(
        "x509", "-req", "-in", request, "-CA", issuer, "-CAkey", issuer_key, "-CAcreateserial", "-days", "30",
        "-extfile", extensions, "-out", out,
    )  # fmt: skip
