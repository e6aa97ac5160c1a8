"""Runs in S3, as `aws s3 cp --recursive` puts them there: s3://BUCKET/PREFIX/<run-id>/report.json. Only read.

Credentials, region and endpoint come by the SDK's own chain (AWS_PROFILE, AWS_REGION, AWS_ENDPOINT_URL_S3, ...).
"""

from __future__ import annotations

from collections.abc import Iterator

from botocore.exceptions import BotoCoreError, ClientError

from probe.errors import HaprobeError, PrivilegeError, UsageError
from probe.watch.access import DENIED, PATIENT, Account, explained, make_client, result_of

SCHEME = "s3://"
MAX_OBJECT = 256 << 20  # octets; the document of a long run of many flows has some tens of millions
_ABSENT = frozenset({"NoSuchKey", "404"})


def documents(url: str, report: str) -> list[tuple[str, bytes]]:
    """(URL, content) of the documents under a URL, by run id; never empty.

    Args:
        url: s3://BUCKET/KEY of a document, or s3://BUCKET/PREFIX of a run or of runs.
        report: What a run's document is called.

    Raises:
        UsageError: If there is none, or the URL names no bucket.
        PrivilegeError: If the credentials do not allow it.
        PeerError: If S3 cannot be reached.
    """
    bucket, _, key = url.removeprefix(SCHEME).partition("/")
    if not bucket:
        raise UsageError(f"{url}: names no bucket; allowed: s3://BUCKET/PREFIX")
    store = _Bucket(bucket)
    if key.endswith(".json"):
        keys = [key]
    else:
        prefix = f"{key.rstrip('/')}/" if key.strip("/") else ""
        keys = [prefix + report, *(f"{run}{report}" for run in store.directories(prefix))]
    # A prefix that is a run's own holds captures beside it, never runs.
    found = []
    for one in keys:
        content = store.content(one)
        if content is not None:
            found.append((f"{SCHEME}{bucket}/{one}", content))
            if one == keys[0]:
                break
    if not found:
        raise UsageError(f"{url}: holds no run (neither {report} nor */{report})")
    return found


class _Bucket:
    def __init__(self, name: str):
        self._name, self._account = name, Account()
        try:
            self._client = make_client(self._account, "s3", patience=PATIENT)
        except (BotoCoreError, ValueError) as error:  # ValueError: an endpoint that is no URL
            raise self._told(error, "s3:ListBucket") from error

    def directories(self, prefix: str) -> Iterator[str]:
        """The prefixes right below one, ascending; hidden ones are runs that were being written."""
        more: dict[str, str] = {}
        while True:
            try:
                page = self._client.list_objects_v2(Bucket=self._name, Prefix=prefix, Delimiter="/", **more)
            except (BotoCoreError, ClientError) as error:
                raise self._told(error, "s3:ListBucket") from error
            for one in page.get("CommonPrefixes", ()):
                if not one["Prefix"].removeprefix(prefix).startswith("."):
                    yield one["Prefix"]
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def content(self, key: str) -> bytes | None:
        """What an object holds; None if there is none."""
        where = f"{SCHEME}{self._name}/{key}"
        try:
            content: bytes = self._client.get_object(Bucket=self._name, Key=key)["Body"].read(MAX_OBJECT + 1)
        except (BotoCoreError, ClientError) as error:
            if result_of(error) in _ABSENT:
                return None
            raise self._told(error, "s3:GetObject") from error
        if len(content) > MAX_OBJECT:
            raise UsageError(f"{where}: not a result document: more than {MAX_OBJECT >> 20} MiB")
        return content

    def _told(self, error: Exception, action: str) -> HaprobeError:
        result = result_of(error)
        if result in DENIED:
            return PrivilegeError(
                f"AWS denied {action} on bucket {self._name} ({result}); allow s3:ListBucket on it and s3:GetObject on"
                " what it holds for these credentials"
            )
        if result == "NoSuchBucket":
            return UsageError(f"{SCHEME}{self._name}: no such bucket")
        if isinstance(error, BotoCoreError | ClientError):
            return explained(error, self._account, action)
        return UsageError(f"S3 cannot be asked: {error}")
