"""What a client needs to use the servers."""

from infra.servers import mlflow_server, s3, zenml_server
from infra.servers.home import Home


def variables(home: Home, group: str = "all") -> dict[str, str]:
    """Return the environment variables of a client, secrets included.

    Args:
        home: the servers' folder.
        group: `s3`, `mlflow`, `zenml` or `all`.
    """
    found: dict[str, str] = {}
    if group in ("mlflow", "all"):
        found |= {
            "MLFLOW_TRACKING_URI": mlflow_server.url(home),
            "MLFLOW_TRACKING_USERNAME": mlflow_server.ADMIN,
            "MLFLOW_TRACKING_PASSWORD": home.secret("mlflow.admin"),
        }
    if group in ("s3", "mlflow", "all"):
        access, secret = s3.keys(home, "client")
        found |= {
            "AWS_ACCESS_KEY_ID": access,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_DEFAULT_REGION": s3.REGION,
            "AWS_ENDPOINT_URL_S3": s3.url(home),
            "MLFLOW_S3_ENDPOINT_URL": s3.url(home),
        }
    if group in ("zenml", "all"):
        found |= {
            "ZENML_STORE_TYPE": "rest",
            "ZENML_STORE_URL": zenml_server.url(home),
            "ZENML_STORE_API_KEY": zenml_server.api_key(home),
        }
    return found
