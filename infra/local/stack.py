"""regrow's own ZenML stack on this machine, active for this checkout only: infra/stacks/local.yaml.

Everything that a run makes lies below `runs/` of the checkout: ZenML's artifacts, MLflow's database and
files. Other stacks of the user, and the stack that is active elsewhere, stay as they are.
"""

import logging
import os
from hashlib import sha256
from pathlib import Path

from zenml.client import Client
from zenml.models import StackResponse

from infra.stacks.register import Change, up
from infra.stacks.schema import load
from infra.stacks.values import Values

log = logging.getLogger(__name__)


def store_path(root: Path) -> Path:
    """Return the folder of the artifact store; MLflow's database lies in it too."""
    return root / "runs" / "store"


def tracking_uri(root: Path) -> str:
    """Return the MLflow tracking URI of the stack (ZenML's tracker keeps it in the artifact store)."""
    return f"sqlite:///{store_path(root)}/mlflow.db"


def stack_name(root: Path) -> str:
    """Return the stack's name in ZenML: two checkouts have two, for their artifacts lie in different places."""
    return f"regrow-local-{sha256(str(root).encode()).hexdigest()[:8]}"


def use_root(root: Path) -> None:
    """Make a folder ZenML's repository, below which its steps are found.

    Args:
        root: folder that holds `.zen/` and will hold `runs/`.
    """
    if Client.find_repository(root) != root:
        Client.initialize(root)
    os.environ.setdefault("ZENML_REPOSITORY_PATH", str(root))
    Client().activate_root(root)


def here() -> Path:
    """Return the repository that this folder is in, or else this folder, which may become one."""
    return Client.find_repository() or Path.cwd()


def register_local_stack(root: Path) -> list[Change]:
    """Register the stack where it is missing."""
    store_path(root).mkdir(parents=True, exist_ok=True)
    name = stack_name(root)
    values = Values(artifact_store={"path": str(store_path(root))})
    return up(load("local"), values, name=name, component=name)


def activate_local_stack(root: Path) -> StackResponse:
    """Register the stack where it is missing and make it active for the repository at `root`.

    Args:
        root: folder that holds `.zen/` and will hold `runs/`.
    """
    use_root(root)
    if any(change.done == "registered" for change in register_local_stack(root)):
        log.info("registered the ZenML stack %s", stack_name(root))
    client = Client()
    client.activate_stack(stack_name(root))
    return client.active_stack_model
