"""S3 by boto3, with the address and the keys of an s3fs file system."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_CHUNK = 2**20
PART = 64 * 2**20  # of an upload; S3 takes 10,000 of them
WORKERS = 8


class S3Store:
    """The S3 store that an `s3fs.S3FileSystem` speaks to.

    Args:
        filesystem: whose keys, endpoint and settings are used.
    """

    def __init__(self, filesystem: Any) -> None:
        import boto3
        from boto3.s3.transfer import S3Transfer, TransferConfig
        from botocore.config import Config

        # A part that fails is sent again, over more than half a minute, before the file is.
        ours = Config(
            max_pool_connections=2 * WORKERS,
            connect_timeout=10,
            read_timeout=60,
            retries={"mode": "standard", "max_attempts": 12},
        )
        named = dict(filesystem.client_kwargs)
        if filesystem.endpoint_url:
            named["endpoint_url"] = filesystem.endpoint_url
        given = {name: value for name, value in filesystem.config_kwargs.items() if value is not None}
        config = ours.merge(Config(**given)) if given else ours
        self._client = boto3.session.Session().client(
            "s3",
            aws_access_key_id=filesystem.key,
            aws_secret_access_key=filesystem.secret,
            aws_session_token=filesystem.token,
            **named,
            config=config,
        )
        self._transfer = TransferConfig(
            multipart_threshold=PART, multipart_chunksize=PART, max_concurrency=WORKERS
        )
        extra = filesystem.s3_additional_kwargs or {}
        self._extra = {name: value for name, value in extra.items() if name in S3Transfer.ALLOWED_UPLOAD_ARGS}

    def size(self, uri: str) -> int:
        """Return the bytes of an object."""
        bucket, key = _split(uri)
        with _as_os_errors(uri):
            return int(self._client.head_object(Bucket=bucket, Key=key)["ContentLength"])

    def read(self, uri: str, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes of an object from `start` to before `end`, as they come."""
        bucket, key = _split(uri)
        with _as_os_errors(uri):
            body = self._client.get_object(Bucket=bucket, Key=key, Range=f"bytes={start}-{end - 1}")["Body"]
        try:
            while chunk := body.read(_CHUNK):
                yield chunk
        finally:
            body.close()

    def put(self, file: Path, uri: str) -> None:
        """Upload a file, a large one in parts at one time; nothing is there before all of it is."""
        bucket, key = _split(uri)
        with _as_os_errors(uri):
            self._client.upload_file(
                str(file), bucket, key, Config=self._transfer, ExtraArgs=self._extra or None
            )


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.partition("://")[2].partition("/")
    return bucket, key


@contextmanager
def _as_os_errors(uri: str) -> Iterator[None]:
    """Tell S3's "not there" and "denied" by Python's own errors."""
    try:
        yield
    except Exception as error:
        # boto3's upload tells only in words what its client had raised.
        response = getattr(error, "response", None) or getattr(error.__context__, "response", None) or {}
        code = str(response.get("Error", {}).get("Code", ""))
        if code in {"404", "NoSuchKey", "NoSuchBucket"}:
            raise FileNotFoundError(f"{uri}: not in the store") from error
        if code in {"401", "403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"}:
            raise PermissionError(f"{uri}: access denied ({code})") from error
        raise
