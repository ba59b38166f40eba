"""An S3 store on this machine: SeaweedFS, with keys of its own for each of its users."""

import json
from typing import Any

from infra.servers import programs
from infra.servers.home import HOST, Home, write_private

MLFLOW_BUCKET = "mlflow"
ZENML_BUCKET = "zenml"
REGION = "us-east-1"
_INNER = ("signing", "signing.read", "filer_signing", "filer_signing.read")
_PORTS = ("master", "volume", "filer", "s3")

# Who may do what where. A client reads what MLflow's server wrote, but writes there only through that server.
_RIGHTS = {
    "admin": ["Admin", "Read", "Write", "List", "Tagging"],
    "mlflow": [
        f"{right}:{MLFLOW_BUCKET}" for right in ("Read", "Write", "List", "Tagging")
    ] + [f"{right}:{ZENML_BUCKET}" for right in ("Read", "List")],
    "client": [
        f"{right}:{ZENML_BUCKET}" for right in ("Read", "Write", "List", "Tagging")
    ] + [f"{right}:{MLFLOW_BUCKET}" for right in ("Read", "List")],
}  # fmt: skip


def url(home: Home) -> str:
    """Return the endpoint."""
    return f"http://{home.host}:{home.port('s3')}"


def keys(home: Home, user: str) -> tuple[str, str]:
    """Return the access key and the secret key of `admin`, `mlflow` (its server) or `client`."""
    # Half of a random text as a name; S3 programs take letters and digits there without question.
    name = "".join(one for one in home.secret(f"s3.{user}.access") if one.isalnum())[:20]
    return f"{user}{name}", home.secret(f"s3.{user}.secret")


def client(home: Home, user: str = "admin") -> Any:
    """Return a boto3 client with a user's keys."""
    import boto3
    from botocore.config import Config

    access, secret = keys(home, user)
    return boto3.client(
        "s3",
        endpoint_url=url(home),
        aws_access_key_id=access,
        aws_secret_access_key=secret,
        region_name=REGION,
        config=Config(connect_timeout=2, read_timeout=10, retries={"max_attempts": 0}),
    )


def prepare(home: Home) -> None:
    """Write the store's users and the keys with which its parts trust each other."""
    programs.find_weed()
    programs.need_module("boto3", "regrow[s3]")
    folder = home.place("s3")
    folder.chmod(0o700)
    (folder / "data").mkdir(exist_ok=True)
    users = []
    for user, rights in _RIGHTS.items():
        access, secret = keys(home, user)
        users.append(
            {
                "name": user,
                "credentials": [{"accessKey": access, "secretKey": secret}],
                "actions": rights,
            }
        )
    write_private(folder / "s3.json", json.dumps({"identities": users}))
    # Without these, whoever reaches the inner ports reads and writes past the S3 keys. weed looks for the
    # file in its working folder.
    parts = {part: home.secret(f"s3.jwt.{part}") for part in _INNER}
    lines = [f'[jwt.{part}]\nkey = "{key}"\nexpires_after_seconds = 60\n' for part, key in parts.items()]
    write_private(folder / "security.toml", "\n".join(lines))


def command(home: Home) -> list[str]:
    """Return the command of the server."""
    words = [
        programs.find_weed(), "-logtostderr=true", "server", "-dir=data", f"-ip={HOST}", f"-ip.bind={HOST}",
        # The store's inner parts stay on the loopback address wherever its door is.
        f"-s3.ip.bind={home.host}",
        "-volume.max=100", "-volume.preStopSeconds=0", "-volume.minFreeSpace=1", "-master.volumeSizeLimitMB=4096",
        "-master.telemetry=false", "-filer.exposeDirectoryData=false",
        "-filer", "-s3", "-s3.config=s3.json", "-s3.autoCreateBucket=false", "-s3.port.iceberg=0",
        "-s3.port.lance=0",
    ]  # fmt: skip
    for part in _PORTS:
        name = "s3" if part == "s3" else f"s3.{part}"
        words += [f"-{part}.port={home.port(name)}", f"-{part}.port.grpc={home.port(f'{name}.grpc')}"]
    return words


def probe(home: Home) -> None:
    """Make the buckets that are missing; raises until the store takes them."""
    admin = client(home)
    there = {one["Name"] for one in admin.list_buckets()["Buckets"]}
    for bucket in (MLFLOW_BUCKET, ZENML_BUCKET):
        if bucket not in there:
            admin.create_bucket(Bucket=bucket)
        # A store whose volumes are not up yet lists buckets and refuses data.
        admin.put_object(Bucket=bucket, Key=".ready", Body=b"ready")
        admin.delete_object(Bucket=bucket, Key=".ready")


PORTS = tuple(
    f"{name}{kind}" for name in ("s3", "s3.master", "s3.volume", "s3.filer") for kind in ("", ".grpc")
)
