"""regrow's own ZenML stack on this machine, active for this checkout only.

Everything that a run makes lies below `runs/` of the checkout: ZenML's artifacts, MLflow's database and
files. Other stacks of the user, and the stack that is active elsewhere, stay as they are.
"""

import logging
import os
from hashlib import sha256
from pathlib import Path

from zenml.client import Client
from zenml.enums import StackComponentType
from zenml.models import StackResponse

log = logging.getLogger(__name__)

_COMPONENTS = {
    StackComponentType.ORCHESTRATOR: "local",
    StackComponentType.ARTIFACT_STORE: "local",
    StackComponentType.EXPERIMENT_TRACKER: "mlflow",
    StackComponentType.MODEL_REGISTRY: "mlflow",
}


def store_path(root: Path) -> Path:
    """Return the folder of the artifact store; MLflow's database lies in it too."""
    return root / "runs" / "store"


def tracking_uri(root: Path) -> str:
    """Return the MLflow tracking URI of the stack (ZenML's tracker keeps it in the artifact store)."""
    return f"sqlite:///{store_path(root)}/mlflow.db"


def activate_local_stack(root: Path) -> StackResponse:
    """Register the stack where it is missing and make it active for the repository at `root`.

    Args:
        root: folder that holds `.zen/` and will hold `runs/`.
    """
    if Client.find_repository(root) != root:
        Client.initialize(root)
    os.environ.setdefault("ZENML_REPOSITORY_PATH", str(root))
    client = Client()
    client.activate_root(root)
    # Two checkouts of the project have two stacks: their artifacts lie in different places.
    name = f"regrow-local-{sha256(str(root).encode()).hexdigest()[:8]}"
    components: dict[StackComponentType, str] = {}
    for kind, flavor in _COMPONENTS.items():
        settings = {"path": str(store_path(root))} if kind == StackComponentType.ARTIFACT_STORE else {}
        if not client.list_stack_components(name=name, type=kind).items:
            client.create_stack_component(
                name=name, flavor=flavor, component_type=kind, configuration=settings
            )
        components[kind] = name
    store_path(root).mkdir(parents=True, exist_ok=True)
    if not client.list_stacks(name=name).items:
        client.create_stack(name, components=components)
        log.info("registered the ZenML stack %s", name)
    client.activate_stack(name)
    return client.active_stack_model
