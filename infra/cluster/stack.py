"""The stack `kubernetes` of this cluster, in the ZenML server beside it."""

from pathlib import Path

from zenml.client import Client
from zenml.exceptions import EntityExistsError

from infra.cluster.cluster import Cluster
from infra.cluster.values import IMAGES, SOURCES, has_servers, values
from infra.servers import mlflow_server, s3
from infra.stacks.register import Change, up
from infra.stacks.schema import load
from infra.stacks.values import combine
from regrow.errors import InputError


def register(cluster: Cluster, images: Path = IMAGES) -> list[Change]:
    """Make the secrets that the stack refers to and the stack itself, or bring them up to date.

    ZenML must be connected to the cluster's server (`values.variables`).

    Args:
        cluster: that runs, with servers beside it.
        images: the file that `infra.docker build` wrote.

    Raises:
        InputError: the cluster has no servers.
    """
    home = cluster.servers
    if not has_servers(home):
        raise InputError(f"{cluster.folder}: no servers beside the cluster; start it with them (up)")
    access, secret = s3.keys(home, "client")
    secrets = {
        "regrow-s3": {"aws_access_key_id": access, "aws_secret_access_key": secret},
        SOURCES: {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret},
        "regrow-mlflow": {"username": mlflow_server.ADMIN, "password": home.secret("mlflow.admin")},
    }
    for name, content in secrets.items():
        try:
            Client().create_secret(name, values=content)
        except EntityExistsError:
            Client().update_secret(name, add_or_update_values=content)
    return up(load("kubernetes"), combine([("the cluster", values(cluster, images))]))
