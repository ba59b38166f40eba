"""What ZenML says of a run, as JSON on the last line: `python -m tests.kubeflow.account RUN` (its name in Kubeflow)."""

import json
import sys

from zenml.client import Client

if __name__ == "__main__":
    client = Client()
    found = client.list_pipeline_runs(orchestrator_run_id=sys.argv[1], hydrate=True).items
    assert len(found) == 1, found
    run = client.get_pipeline_run(found[0].id)
    outputs = {
        name: {key: str(versions[0].uri) for key, versions in step.outputs.items()}
        for name, step in run.steps.items()
    }
    summary = run.steps["register"].outputs["summary"][0].load() if "register" in run.steps else None
    account = {
        "status": run.status.value,
        "stack": run.stack.name,
        "steps": {name: step.status.value for name, step in run.steps.items()},
        "outputs": outputs,
        "summary": summary,
    }
    sys.stdout.write(f"\n{json.dumps(account, default=str)}\n")
