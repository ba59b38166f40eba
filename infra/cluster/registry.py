"""The image registry (Debian's docker-registry), and the settings with which podman and buildah use it."""

import json

import requests

from infra.cluster import build, image, machine
from infra.cluster.cluster import PAUSE, Cluster
from infra.servers.home import write_private


def prepare(cluster: Cluster) -> None:
    """Write its configuration, and that of the tools that build images."""
    config = {
        "version": "0.1",
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(cluster.place("registry") / "data")},
            "delete": {"enabled": True},
        },
        "http": {"addr": cluster.registry, "secret": cluster.secret("registry")},
    }
    write_private(cluster.etc("registry.yml"), json.dumps(config, indent=1))  # JSON is YAML
    # What a machine without systemd and with fewer rights than root's own needs; harmless elsewhere.
    containers = f"""\
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=9000:9000"]
netns = "host"
[engine]
runtime = "runc"
infra_image = "{cluster.registry}/{PAUSE}"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
    write_private(cluster.etc("containers.conf"), containers)
    plain = f'[[registry]]\nlocation = "{cluster.registry}"\ninsecure = true\n'
    write_private(cluster.etc("registries.conf"), plain)


def command(cluster: Cluster) -> list[str]:
    """Return the command of the registry."""
    return [machine.find("docker-registry"), "serve", str(cluster.etc("registry.yml"))]


def ready(cluster: Cluster) -> None:
    """Raise until the registry answers."""
    with requests.Session() as session:
        session.trust_env = False
        session.get(f"http://{cluster.registry}/v2/", timeout=5).raise_for_status()


def finish(cluster: Cluster) -> None:
    """Put in the image that holds a pod's network."""
    image.push(cluster.registry, PAUSE, {"/pause": build.programs() / "pause"}, ["/pause"])


def variables(cluster: Cluster) -> dict[str, str]:
    """Return what programs that build and push images read."""
    return {
        "REGROW_CLUSTER_REGISTRY": cluster.registry,
        "CONTAINERS_CONF": str(cluster.etc("containers.conf")),
        "CONTAINERS_REGISTRIES_CONF": str(cluster.etc("registries.conf")),
        "ZENML_CONTAINER_ENGINE": "podman",
    }
