"""Keys, certificates and kubeconfigs: everything in the cluster knows each other by a certificate of its own CA."""

import base64
import datetime
import ipaddress
import json
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from infra.cluster.cluster import CONTEXT, Cluster
from infra.servers.home import write_private

_YEARS = 10
_Key = ec.EllipticCurvePrivateKey


def prepare(cluster: Cluster) -> None:
    """Make what is missing; what is there stays, because pods and clients know it."""
    if Path(cluster.pki("complete")).exists():
        return
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = _authority(authority_key)
    _write(cluster, "ca", authority_key, authority)
    node, address = cluster.node, cluster.address
    first_service = "10.96.0.1"
    # name -> (common name, organization, names by which it is called)
    parties: dict[str, tuple[str, str | None, list[str]]] = {
        "apiserver": (
            "kube-apiserver", None,
            [address, "127.0.0.1", first_service, "localhost", "kubernetes", "kubernetes.default",
             "kubernetes.default.svc"],
        ),
        "etcd": ("etcd", None, ["127.0.0.1", "localhost"]),
        "kubelet-client": ("kube-apiserver-kubelet-client", "system:masters", []),
        "controller-manager": ("system:kube-controller-manager", None, ["127.0.0.1", "localhost"]),
        "scheduler": ("system:kube-scheduler", None, ["127.0.0.1", "localhost"]),
        "proxy": ("system:kube-proxy", None, []),
        "kubelet": (f"system:node:{node}", "system:nodes", [node, address]),
        "admin": ("admin", "system:masters", []),
    }  # fmt: skip
    for name, (common, organization, names) in parties.items():
        key = ec.generate_private_key(ec.SECP256R1())
        _write(cluster, name, key, _certificate(key, authority_key, authority, common, organization, names))
        if name in ("controller-manager", "scheduler", "proxy", "kubelet", "admin"):
            _kubeconfig(cluster, name)
    # Tokens of service accounts are signed with a key of their own; RSA is what every client library checks.
    tokens = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    write_private(Path(cluster.pki("tokens.key")), _text(tokens))
    public = tokens.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    write_private(Path(cluster.pki("tokens.pub")), public.decode())
    Path(cluster.pki("complete")).touch()  # a killed first start makes everything anew


def _authority(key: _Key) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "regrow test cluster")])
    usage = x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    return (
        _builder(name, name, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _certificate(
    key: _Key,
    authority_key: _Key,
    authority: x509.Certificate,
    common: str,
    organization: str | None,
    names: list[str],
) -> x509.Certificate:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common)]
    if organization:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = (
        _builder(x509.Name(attributes), authority.subject, key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
        )
    )
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_called(name) for name in names]), critical=False
        )
    return builder.sign(authority_key, hashes.SHA256())


def _called(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(subject: x509.Name, issuer: x509.Name, key: _Key) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=365 * _YEARS))
    )


def _text(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    # The traditional format ("EC PRIVATE KEY"): controllers of this version read no other for service accounts.
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    ).decode()


def _write(cluster: Cluster, name: str, key: _Key, certificate: x509.Certificate) -> None:
    write_private(Path(cluster.pki(f"{name}.key")), _text(key))
    write_private(
        Path(cluster.pki(f"{name}.crt")), certificate.public_bytes(serialization.Encoding.PEM).decode()
    )


def _kubeconfig(cluster: Cluster, name: str) -> None:
    def inline(file: str) -> str:
        return base64.b64encode(Path(cluster.pki(file)).read_bytes()).decode()

    known = {"server": cluster.api, "certificate-authority-data": inline("ca.crt")}
    user = {"client-certificate-data": inline(f"{name}.crt"), "client-key-data": inline(f"{name}.key")}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": CONTEXT, "cluster": known}],
        "users": [{"name": f"{CONTEXT}-{name}", "user": user}],
        "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": f"{CONTEXT}-{name}"}}],
        "current-context": CONTEXT,
    }
    # JSON is YAML, which is what every client reads.
    write_private(Path(cluster.pki(f"{name}.conf")), json.dumps(config, indent=1))
