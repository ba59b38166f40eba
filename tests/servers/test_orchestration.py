"""The ZenML server on MariaDB: who gets in, and a pipeline whose artifacts lie on S3."""

import base64
import json

import pymysql
import pytest
import requests

from infra.servers import s3, zenml_server
from infra.servers.home import HOST
from tests.servers.pipeline_client import client, result

pytestmark = pytest.mark.servers


def test_a_pipeline_runs_with_the_api_key_and_its_artifacts_lie_in_the_bucket(servers, run):
    assert run["status"] == "completed"
    assert run["user"] == zenml_server.SERVICE_ACCOUNT
    assert run["uri"].startswith("s3://zenml/artifacts/tune/tuned/")
    store = s3.client(servers.home)
    prefix = run["uri"].removeprefix("s3://zenml/")
    listed = store.list_objects_v2(Bucket=s3.ZENML_BUCKET, Prefix=prefix)["Contents"]
    data = [store.get_object(Bucket=s3.ZENML_BUCKET, Key=one["Key"])["Body"].read() for one in listed]
    assert any(json.loads(one) == {"layers": 6, "steps": 3} for one in data if one.startswith(b"{"))


def test_another_client_reads_the_artifact_back_without_keys_of_its_own(servers, run, tmp_path):
    no_keys = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_ENDPOINT_URL_S3": ""}
    found = result(client(servers, tmp_path / "other", "read", run["tuned"], **no_keys))
    assert found["value"] == {"layers": 6, "steps": 3}
    assert found["digest"] == run["digest"]
    assert found["tags"] == ["regrow"]
    assert found["url"] == servers.variables["ZENML_STORE_URL"]


def test_a_wrong_api_key_is_refused(servers, run, tmp_path):
    key = servers.variables["ZENML_STORE_API_KEY"]
    done = client(
        servers, tmp_path / "stranger", "read", run["tuned"], ZENML_STORE_API_KEY=key[:-6] + "AAAAAA"
    )
    assert done.returncode != 0
    assert "RESULT" not in done.stdout
    assert "401" in done.stderr or "authenti" in done.stderr.lower() or "invalid" in done.stderr.lower()


@pytest.mark.parametrize(
    "path", ["models", "runs", "secrets", "users", "service_accounts", "artifact_versions"]
)
def test_nobody_gets_in_without_a_login(servers, path):
    address = f"{servers.variables['ZENML_STORE_URL']}/api/v1"
    assert requests.get(f"{address}/{path}", timeout=30).status_code == 401
    forged = {"Authorization": "Bearer eyJhbGciOiJub25lIn0.e30."}
    assert requests.get(f"{address}/{path}", headers=forged, timeout=30).status_code == 401


@pytest.mark.parametrize("form", [
    {"username": "admin", "password": ""}, {"username": "default", "password": ""},
    {"username": "admin", "password": "wrong"}, {"password": "ZENKEY_wrong"},
])  # fmt: skip
def test_no_login_with_an_empty_or_a_wrong_password(servers, form):
    answer = requests.post(f"{servers.variables['ZENML_STORE_URL']}/api/v1/login", data=form, timeout=30)
    assert answer.status_code in (400, 401, 403, 422)
    assert "access_token" not in answer.text


def test_nobody_can_claim_the_server_for_himself(servers):
    address = f"{servers.variables['ZENML_STORE_URL']}/api/v1/activate"
    claim = {"admin_username": "mallory", "admin_password": "mallory-was-here"}
    assert not requests.put(address, json=claim, timeout=30).ok


def test_the_records_lie_in_mariadb_and_the_secrets_there_are_encrypted(servers, run):
    home = servers.home
    connection = pymysql.connect(
        host=HOST,
        port=home.port("mariadb"),
        user="zenml",
        password=home.secret("mariadb.zenml"),
        database="zenml",
    )
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT VERSION()")
        assert "MariaDB" in cursor.fetchone()[0]
        cursor.execute("SELECT status FROM pipeline_run")
        assert ("completed",) in cursor.fetchall()
        cursor.execute("SELECT name, `values` FROM secret")
        secrets = dict(cursor.fetchall())
    assert "s3-keys" in secrets
    stored = str(secrets["s3-keys"])
    secret = s3.keys(home, "client")[1]
    # Without a key of encryption the values are there for whoever can decode base64.
    assert secret not in stored
    assert secret.encode() not in base64.b64decode(stored)
    for user, password in (("root", ""), ("zenml", ""), ("", ""), ("root", "root")):
        with pytest.raises(pymysql.err.OperationalError, match="Access denied"):
            pymysql.connect(host=HOST, port=home.port("mariadb"), user=user, password=password)
