"""The MLflow server on PostgreSQL and S3: who may register, and where what is registered lies."""

from pathlib import Path

import psycopg2
import pytest
import requests

from infra.servers import postgres, s3
from infra.servers.home import HOST
from regrow.checkpoint import Checkpoint, digest_of, manifest
from regrow.errors import InputError
from regrow.registry import RegistrySpec, register
from tests.servers.running import Servers

pytestmark = pytest.mark.servers
PASSWORD = "a-password-of-a-test"
LOGIN = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")


class Tracking:
    """This process as a client of the server."""

    def __init__(self, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
        self.variables = servers.variables
        self.home = servers.home
        self.uri = self.variables["MLFLOW_TRACKING_URI"]
        self.monkeypatch = monkeypatch

    def log_in(self, name: str | None = None, password: str = PASSWORD) -> None:
        """Become a user, or the administrator, as `env` says."""
        given = (name, password) if name else [self.variables[one] for one in LOGIN]
        for variable, value in zip(LOGIN, given, strict=True):
            self.monkeypatch.setenv(variable, value)

    def user(self, name: str) -> str:
        """Make a user, without any right given."""
        from mlflow.server import get_app_client

        self.log_in()
        self.rights = get_app_client("basic-auth", self.uri)
        answer = requests.get(
            f"{self.uri}/api/2.0/mlflow/users/get",
            params={"username": name},
            auth=tuple(self.variables[one] for one in LOGIN),
            timeout=30,
        )
        if answer.status_code == 404:
            self.rights.create_user(name, PASSWORD)
        return name


@pytest.fixture
def tracking(servers, monkeypatch, tmp_path):
    import mlflow

    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    # No key for the store: a client of the tracking server has none, its artifacts go through the server.
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MLFLOW_S3_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    client = Tracking(servers, monkeypatch)
    mlflow.set_tracking_uri(client.uri)
    client.log_in()
    yield client
    mlflow.set_tracking_uri(before)


def test_a_registered_version_loads_through_the_server_and_lies_in_the_bucket(tracking, tiny, tmp_path):
    import mlflow

    spec = RegistrySpec(name="served")
    done = register(tiny, spec, tags={"regrow.base": "abc"}, metrics={"recovery": 0.9})
    assert done.tracking_uri == tracking.uri
    version = mlflow.MlflowClient().get_model_version_by_alias("served", "challenger")
    assert version.tags["regrow.digest"] == tiny.digest
    assert version.tags["regrow.base"] == "abc"
    fetched = Path(mlflow.artifacts.download_artifacts(done.uri, dst_path=str(tmp_path / "back")))
    assert digest_of(fetched / "checkpoint") == tiny.digest
    assert Checkpoint.open(fetched / "checkpoint").parameters == tiny.parameters
    # The same bytes, seen from the store's side.
    store = s3.client(tracking.home)
    listed = store.list_objects_v2(Bucket=s3.MLFLOW_BUCKET, Prefix="artifacts/")["Contents"]
    stored = {one["Key"].partition("/checkpoint/")[2]: one for one in listed if done.run_id in one["Key"]}
    for name, entry in manifest(tiny.folder).items():
        assert stored[name]["Size"] == entry["size"]
    weights = store.get_object(Bucket=s3.MLFLOW_BUCKET, Key=stored["model.safetensors"]["Key"])["Body"].read()
    assert weights == (tiny.folder / "model.safetensors").read_bytes()


def test_the_records_lie_in_postgresql_and_the_users_in_a_database_of_their_own(tracking, tiny):
    done = register(tiny, RegistrySpec(name="recorded"), tags={}, metrics={})
    tracking.user("colleague")

    def rows(database: str, statement: str) -> list[tuple]:
        connection = psycopg2.connect(
            host=HOST, port=tracking.home.port("postgres"), user=postgres.USER, dbname=database,
            password=tracking.home.secret("postgres.mlflow"),
        )  # fmt: skip
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall()

    found = rows(
        "mlflow", "SELECT value FROM model_version_tags WHERE key = 'regrow.digest' AND name = 'recorded'"
    )
    assert found == [(done.digest,)]
    users = dict(rows("mlflow_auth", "SELECT username, password_hash FROM users"))
    assert {"admin", "colleague"} <= set(users)
    assert PASSWORD not in str(users)
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(
            host=HOST,
            port=tracking.home.port("postgres"),
            user=postgres.USER,
            dbname="mlflow",
            password="wrong",
        )


@pytest.mark.parametrize(
    "path",
    [
        "api/2.0/mlflow/registered-models/search",
        "api/2.0/mlflow/experiments/search?max_results=1",
        "ajax-api/2.0/mlflow/registered-models/search",
        "api/2.0/mlflow-artifacts/artifacts?path=",
        "api/2.0/mlflow/users/get?username=admin",
        "",
    ],
)
def test_nobody_gets_in_without_a_login(tracking, path):
    assert requests.get(f"{tracking.uri}/{path}", timeout=30).status_code == 401
    wrong = requests.get(f"{tracking.uri}/{path}", auth=("admin", "password1234"), timeout=30)
    assert wrong.status_code == 401


def test_a_wrong_password_is_a_clear_error_and_changes_nothing(tracking, tiny):
    import mlflow

    tracking.log_in("admin", "not-the-password")
    with pytest.raises(InputError) as caught:
        register(tiny, RegistrySpec(name="wrong-password"), tags={}, metrics={})
    said = str(caught.value)
    assert said.startswith(f"MLflow at {tracking.uri}: ")
    assert "401" in said or "authenticat" in said.lower()
    assert said.endswith("check the tracking URI and rights")
    assert "\n" not in said
    tracking.log_in()
    assert mlflow.MlflowClient().search_registered_models("name = 'wrong-password'") == []


def test_a_client_without_rights_on_the_model_is_refused_and_the_alias_stays(tracking, tiny, tmp_path):
    import mlflow

    from tests.tiny import tiny_checkpoint

    spec = RegistrySpec(name="guarded")
    first = register(tiny, spec, tags={}, metrics={})
    other = tiny_checkpoint(tmp_path / "other", seed=1)
    tracking.log_in(tracking.user("reader"))
    # May read, by the server's default.
    assert mlflow.MlflowClient().get_model_version_by_alias("guarded", "challenger").tags["regrow.digest"]
    with pytest.raises(InputError) as caught:
        register(other, spec, tags={}, metrics={})
    said = str(caught.value)
    assert said.startswith(f"MLflow at {tracking.uri}: ")
    assert "Permission denied" in said
    assert said.endswith("check the tracking URI and rights")
    tracking.log_in()
    client = mlflow.MlflowClient()
    assert str(client.get_model_version_by_alias("guarded", "challenger").version) == first.version
    assert len(client.search_model_versions("name = 'guarded'")) == 1


def test_rights_that_are_given_let_a_client_register(tracking, tiny, tmp_path):
    import mlflow

    from tests.tiny import tiny_checkpoint

    spec = RegistrySpec(name="shared")
    register(tiny, spec, tags={}, metrics={})
    other = tiny_checkpoint(tmp_path / "other", seed=1)
    name = tracking.user("writer")
    experiment = mlflow.get_experiment_by_name("regrow")
    tracking.rights.grant_user_permission(name, "registered_model", "shared", "MANAGE")
    tracking.rights.grant_user_permission(name, "experiment", experiment.experiment_id, "EDIT")
    tracking.log_in(name)
    done = register(other, spec, tags={}, metrics={})
    client = mlflow.MlflowClient()
    assert str(client.get_model_version_by_alias("shared", "challenger").version) == done.version


def test_the_store_knows_its_users_and_nobody_else(tracking):
    import boto3
    from botocore.exceptions import ClientError

    home = tracking.home
    client = s3.client(home, "client")
    client.put_object(Bucket=s3.ZENML_BUCKET, Key="mine", Body=b"x")
    with pytest.raises(ClientError, match="AccessDenied"):
        client.put_object(Bucket=s3.MLFLOW_BUCKET, Key="past-the-server", Body=b"x")
    with pytest.raises(ClientError, match="AccessDenied"):
        s3.client(home, "mlflow").delete_object(Bucket=s3.ZENML_BUCKET, Key="mine")
    stranger = boto3.client(
        "s3", endpoint_url=s3.url(home), aws_access_key_id=s3.keys(home, "client")[0],
        aws_secret_access_key="wrong", region_name=s3.REGION,
    )  # fmt: skip
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        stranger.get_object(Bucket=s3.ZENML_BUCKET, Key="mine")
    assert requests.get(f"{s3.url(home)}/{s3.ZENML_BUCKET}/mine", timeout=30).status_code == 403
    # Nor past the S3 door, by the store's inner ports.
    for part in ("s3.filer", "s3.volume"):
        address = f"http://{HOST}:{home.port(part)}/buckets/{s3.ZENML_BUCKET}/mine"
        assert requests.get(address, timeout=30).status_code == 401
        assert requests.put(address, data=b"y", timeout=30).status_code >= 400
    assert client.get_object(Bucket=s3.ZENML_BUCKET, Key="mine")["Body"].read() == b"x"
