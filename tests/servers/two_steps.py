"""A pipeline of two steps whose artifacts lie on S3: `python -m tests.servers.two_steps run`, or `read ARTIFACT`.

Run by the tests in a process of its own, with the variables that `python -m infra.servers env` prints.
"""

import json
import os
import sys
from typing import Annotated

from zenml import Model, log_metadata, pipeline, step
from zenml.client import Client
from zenml.enums import StackComponentType
from zenml.types import HTMLString

MODEL = "served-regrown"
DIGEST = "ab" * 32
HEADING = "The chain of this model"
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@step(enable_cache=False)
def prune() -> Annotated[dict[str, int], "pruned"]:
    """Make something small."""
    return {"layers": 6}


@step(enable_cache=False)
def tune(
    pruned: dict[str, int],
) -> tuple[Annotated[dict[str, int], "tuned"], Annotated[HTMLString, "lineage"]]:
    """Make something of it, a page, and facts about the model's version."""
    log_metadata({"regrow.digest": DIGEST}, infer_model=True)
    log_metadata({"regrow.digest": DIGEST}, artifact_name="tuned", infer_artifact=True)
    return pruned | {"steps": 3}, HTMLString(f"<html><body><h1>{HEADING}</h1></body></html>")


@pipeline(model=Model(name=MODEL, tags=["regrow"]), enable_cache=False)
def served() -> None:
    """Run one step after the other."""
    tune(prune())


def activate_stack() -> None:
    """Make the stack: a local orchestrator and an artifact store that takes its keys from a ZenML secret."""
    client = Client()
    if not client.list_stacks(name="served").items:
        keys = {name.lower(): os.environ[name] for name in _KEYS}
        client.create_secret("s3-keys", values=keys)
        settings = {
            "path": "s3://zenml/artifacts",
            "authentication_secret": "s3-keys",
            "client_kwargs": {"endpoint_url": os.environ["AWS_ENDPOINT_URL_S3"]},
        }
        kind = StackComponentType.ARTIFACT_STORE
        client.create_stack_component("s3", flavor="s3", component_type=kind, configuration=settings)
        client.create_stack("served", components={StackComponentType.ORCHESTRATOR: "default", kind: "s3"})
    client.activate_stack("served")


def run() -> dict[str, str]:
    """Run the pipeline and say what came of it."""
    activate_stack()
    # What ZenML stores next is reached with the keys of the secret alone.
    for name in (*_KEYS, "AWS_ENDPOINT_URL_S3", "MLFLOW_S3_ENDPOINT_URL"):
        os.environ.pop(name)
    done = served()
    found = Client().get_pipeline_run(done.id)
    outputs = found.steps["tune"].outputs
    return {
        "run": str(found.id),
        "status": found.status.value,
        "tuned": str(outputs["tuned"][0].id),
        "uri": outputs["tuned"][0].uri,
        "lineage": str(outputs["lineage"][0].id),
        "version": str(found.model_version.id),
        "user": found.user.name,
        "digest": DIGEST,
        "heading": HEADING,
        "model": MODEL,
    }


def read(artifact: str) -> dict[str, object]:
    """Load the artifact of an earlier run, and what the model's version says."""
    client = Client()
    version = client.get_model_version(MODEL, "latest")
    return {
        "value": client.get_artifact_version(artifact).load(),
        "digest": str(version.run_metadata["regrow.digest"]),
        "tags": [tag.name for tag in version.tags],
        "url": client.zen_store.url,
    }


if __name__ == "__main__":
    # Under its own name, by which ZenML finds the steps again.
    from tests.servers import two_steps

    result = two_steps.run() if sys.argv[1] == "run" else two_steps.read(sys.argv[2])
    sys.stdout.write(f"\nRESULT {json.dumps(result)}\n")
