"""The folder of a cluster: where its parts keep their data, at which ports they listen."""

import json
from pathlib import Path
from typing import Any

from infra.cluster import build, machine
from infra.servers.home import Home, write_private
from regrow.errors import InputError

CONTEXT = "regrow-test"
RESOURCE = "nvidia.com/gpu"
GPUS = 2
POD_NETWORK = "10.244.0.0/24"
SERVICE_NETWORK = "10.96.0.0/16"
PAUSE = "pause:3.2"
_LONGEST = 60  # a socket's path may have 107 characters at most


class Cluster(Home):
    """What is kept between `up` and `down`: ports and processes as for the servers, the node's address and GPUs.

    Args:
        folder: made where it is missing.

    Raises:
        InputError: its path is too long for the sockets in it.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        if len(str(self.folder)) > _LONGEST:
            raise InputError(
                f"--folder {self.folder}: longer than {_LONGEST} characters; choose one nearer to /"
            )

    def make(self) -> None:
        """Make the folders."""
        super().make()
        for name in ("pki", "etc", "run"):
            self.place(name).chmod(0o700)

    @property
    def settings(self) -> dict[str, Any]:
        """`address`, `node` and `gpus` of the cluster.

        Raises:
            InputError: it was never up.
        """
        try:
            return dict(json.loads((self.folder / "cluster.json").read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise InputError(
                f"{self.folder}: no cluster was ever up there; python -m infra.cluster up"
            ) from None

    def keep_settings(self, gpus: int | None) -> bool:
        """Keep the address at the first `up`, and the number of GPUs; tell whether that number changed.

        Raises:
            InputError: this machine's address is no longer the one that certificates and registry have.
        """
        address, node = machine.address(), machine.node_name()
        path = self.folder / "cluster.json"
        old = self.settings if path.is_file() else {"address": address, "node": node, "gpus": GPUS}
        if (old["address"], old["node"]) != (address, node):
            raise InputError(
                f"{self.folder}: made for {old['node']} at {old['address']}, and this machine is {node} at {address}; "
                "remove the folder (down first) to begin anew"
            )
        new = old | {"gpus": old["gpus"] if gpus is None else gpus}
        write_private(path, json.dumps(new, indent=1))
        return bool(new["gpus"] != old["gpus"])

    @property
    def address(self) -> str:
        """The node's address."""
        return str(self.settings["address"])

    @property
    def node(self) -> str:
        """The node's name."""
        return str(self.settings["node"])

    @property
    def gpus(self) -> int:
        """How many GPUs the node says it has."""
        return int(self.settings["gpus"])

    @property
    def registry(self) -> str:
        """Host and port of the registry, as images' names begin."""
        return f"{self.address}:{self.port('registry')}"

    @property
    def api(self) -> str:
        """The API server's address."""
        return f"https://{self.address}:{self.port('apiserver')}"

    @property
    def servers(self) -> Home:
        """The folder of the servers beside the cluster."""
        return Home(self.folder / "servers")

    @property
    def containerd_socket(self) -> Path:
        """Where containerd listens."""
        return self.folder / "run" / "containerd.sock"

    def pki(self, name: str) -> str:
        """Return the path of a key, a certificate or a kubeconfig."""
        return str(self.folder / "pki" / name)

    def etc(self, name: str) -> Path:
        """Return the path of a configuration file."""
        return self.folder / "etc" / name

    def program(self, name: str) -> str:
        """Return the path of one of Kubernetes' programs."""
        return str(build.programs() / name)
