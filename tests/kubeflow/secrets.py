"""The ZenML secrets that the stack `kubeflow` refers to, made once: `python -m tests.kubeflow.secrets`."""

import os

from zenml.client import Client

SECRETS = {
    "regrow-s3": {
        "aws_access_key_id": "AWS_ACCESS_KEY_ID",
        "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY",
    },
    "regrow-sources": {name: name for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")},
    "regrow-mlflow": {"username": "MLFLOW_TRACKING_USERNAME", "password": "MLFLOW_TRACKING_PASSWORD"},
}

if __name__ == "__main__":
    client = Client()
    for name, keys in SECRETS.items():
        if not client.list_secrets(name=name).items:
            client.create_secret(name, values={key: os.environ[variable] for key, variable in keys.items()})
