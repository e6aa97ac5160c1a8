"""Credentials by every way there is, and the words about each way to be refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError
from werkzeug.serving import make_server
from werkzeug.wrappers import Request, Response

from probe.errors import HaprobeError, PeerError, PrivilegeError, UsageError
from probe.lab.faults import FaultRule
from probe.watch.access import Account, explained, make_client, result_of

from .account import Lab, warm_sts

ROLE = "arn:aws:iam::123456789012:role/haprobe"


class Metadata:
    """A stand-in for an instance's metadata service. `v1` are the requests without a token."""

    def __init__(self, v2: bool = True):
        self.v2 = v2
        self.v1: list[str] = []

    def __call__(self, environ: Any, start_response: Any) -> Any:
        request = Request(environ)
        if request.path == "/latest/api/token":
            answer = Response("token") if self.v2 and request.method == "PUT" else Response(status=403)
        elif request.headers.get("X-aws-ec2-metadata-token") != "token":
            self.v1.append(request.path)
            answer = Response(status=401) if self.v2 else self._data(request.path)
        else:
            answer = self._data(request.path)
        return answer(environ, start_response)

    def _data(self, path: str) -> Response:
        if path.endswith("/security-credentials/"):
            return Response("haprobe")
        keys = {"AccessKeyId": "instance", "SecretAccessKey": "s", "Token": "t"}
        times = {"Expiration": "2099-01-01T00:00:00Z", "LastUpdated": "2020-01-01T00:00:00Z"}
        return Response(json.dumps({"Code": "Success", "Type": "AWS-HMAC", **keys, **times}))


@contextmanager
def metadata(monkeypatch: pytest.MonkeyPatch, service: Metadata) -> Iterator[None]:
    server = make_server("127.0.0.1", 0, service)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_METADATA_SERVICE_TIMEOUT", "10")
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def callers(lab: Lab) -> list[str]:
    """Have the cloud note who calls; the list grows."""
    seen: list[str] = []
    take = lab.cloud.faults.book.take

    def noting(call: Any) -> Any:
        seen.append(call.caller)
        return take(call)

    lab.cloud.faults.book.take = noting  # type: ignore[method-assign]
    return seen


def test_an_instance_role_by_imdsv2(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    service, seen = Metadata(), callers(lab)
    with metadata(monkeypatch, service):
        make_client(Account("eu-west-2", endpoint_url=lab.url)).describe_addresses()
    assert (seen, service.v1) == (["instance"], [])


def test_imdsv1_is_never_used(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Metadata(v2=False)
    with metadata(monkeypatch, service), pytest.raises(BotoCoreError) as caught:
        make_client(Account("eu-west-2", endpoint_url=lab.url)).describe_addresses()
    assert result_of(caught.value) in ("no_credentials", "MetadataRetrievalError")
    assert service.v1 == []


def test_a_profile_and_its_region(lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    (tmp_path / "config").write_text(
        "[profile drill]\nregion = eu-north-1\naws_access_key_id = of-profile\naws_secret_access_key = s\n"
    )
    seen = callers(lab)
    client = make_client(Account(profile="drill", endpoint_url=lab.url))
    client.describe_instances()
    assert (seen, client.meta.region_name) == (["of-profile"], "eu-north-1")
    assert make_client(Account("eu-west-2", "drill")).meta.region_name == "eu-west-2"


def test_a_role_is_assumed_with_the_credentials_there_are(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", lab.url)
    warm_sts(lab.url)
    seen: list[tuple[str, str, str]] = []
    take = lab.cloud.faults.book.take

    def noting(call: Any) -> Any:
        seen.append((call.action, call.caller, call.fields.get("ExternalId", "")))
        return take(call)

    lab.cloud.faults.book.take = noting  # type: ignore[method-assign]
    client = make_client(Account("eu-west-2", role_arn=ROLE, external_id="tenant-7", endpoint_url=lab.url))
    assert seen == [], "not before the first call"
    client.describe_addresses()
    client.describe_addresses()
    assert [action for action, _, _ in seen] == ["AssumeRole", "DescribeAddresses", "DescribeAddresses"]
    assert seen[0][1:] == ("watcher", "tenant-7")
    assert seen[1][1] not in ("watcher", ""), "the role's own key"


def test_nothing_is_retried_behind_our_back(lab: Lab) -> None:
    lab.cloud.faults.book.replace([FaultRule("throttled", "watcher")])
    with pytest.raises(ClientError):
        make_client(Account("eu-west-2", endpoint_url=lab.url)).describe_addresses()
    assert [rule["applied"] for rule in lab.cloud.faults.book.to_document()] == [1]


def error_of(account: Account) -> HaprobeError:
    with pytest.raises((ClientError, BotoCoreError)) as caught:
        make_client(account).describe_instances()
    return explained(caught.value, account, "ec2:DescribeInstances")


def test_no_region_no_profile_no_credentials(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    no_region = error_of(Account())
    assert isinstance(no_region, UsageError)
    assert "--region, or set AWS_REGION" in str(no_region)
    no_profile = error_of(Account("eu-west-2", "nobody"))
    assert isinstance(no_profile, UsageError)
    assert "no AWS profile 'nobody'" in str(no_profile)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    for account in (Account("eu-west-2", endpoint_url=lab.url), Account("eu-west-2", role_arn=ROLE)):
        nobody = error_of(account)
        assert isinstance(nobody, PrivilegeError)
        assert "no AWS credentials; give --profile" in str(nobody)


def test_a_denied_call_names_the_action_that_is_missing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", lab.url)
    warm_sts(lab.url)
    lab.fault("denied")
    denied = error_of(Account("eu-west-2", endpoint_url=lab.url))
    assert isinstance(denied, PrivilegeError)
    assert "allow ec2:DescribeInstances" in str(denied)
    role = error_of(Account("eu-west-2", role_arn=ROLE, endpoint_url=lab.url))
    assert isinstance(role, PrivilegeError)
    assert f"AWS denied sts:AssumeRole on {ROLE}" in str(role)


def test_other_refusals_and_silence(lab: Lab) -> None:
    lab.fault("error")
    assert "AWS refused ec2:DescribeInstances: InternalError" in str(
        error_of(Account("eu-west-2", endpoint_url=lab.url))
    )
    lab.fault("error", code="AuthFailure")
    bad_keys = error_of(Account("eu-west-2", endpoint_url=lab.url))
    assert isinstance(bad_keys, PrivilegeError)
    assert "does not accept these credentials" in str(bad_keys)
    gone = error_of(Account("eu-west-2", endpoint_url="http://127.0.0.1:1"))
    assert isinstance(gone, PeerError)
    assert "http://127.0.0.1:1 could not be reached" in str(gone)
