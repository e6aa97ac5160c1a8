"""How this program reaches AWS: credentials, clients that fail fast, and names for what goes wrong.

An answer is read up to a size, and for so long: the SDK itself would read one without end to its end.

Credentials come by botocore's own chain (environment, profile, container, instance role by IMDSv2), and may be
exchanged for those of a role. The SDK's retries are off: they would hide in one slow answer what we want to see as
failures, and who asks knows better when to ask again.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from typing import Any, Protocol
from xml.parsers import expat

import boto3
import botocore.session
from botocore.config import Config
from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    ReadTimeoutError,
    SSLError,
)
from botocore.exceptions import (
    ConnectionError as ConnectError,
)
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError as UrllibHTTPError
from urllib3.exceptions import NameResolutionError
from urllib3.exceptions import ReadTimeoutError as UrllibReadTimeoutError

from probe.errors import HaprobeError, PeerError, PrivilegeError, UsageError
from probe.watch.asking import OverdueError

CONNECT_TIMEOUT_S = 1.0
READ_TIMEOUT_S = 2.0
TOTAL_TIMEOUT_S = 5.0  # of one answer's body, however steadily it trickles; more for who waits longer between octets
MAX_BODY = 4 << 20  # octets; what a watcher asks for has some thousands, or a few millions for tables full of routes
MAX_DEPTH = 100  # elements within each other; answers have ten. What is deeper takes a parser hundreds of MiB
ROLE_SESSION = "haprobe"
DENIED = frozenset({"UnauthorizedOperation", "AccessDenied", "AccessDeniedException", "UnauthorizedAccess"})
BAD_KEYS = frozenset(
    {"AuthFailure", "InvalidClientTokenId", "UnrecognizedClientException", "SignatureDoesNotMatch"}
    | {"ExpiredToken", "ExpiredTokenException", "RequestExpired"}
)
OTHER_KEYS = BAD_KEYS | {"no_credentials"}  # what other credentials would mend


@dataclass(frozen=True, slots=True)
class Patience:
    """How much is waited for and read: seconds without a further octet, octets of one body."""

    read_timeout_s: float
    max_body: int


HASTY = Patience(READ_TIMEOUT_S, MAX_BODY)
# For what is asked once. An unfiltered question about an account may take long; a thousand instances are millions.
PATIENT = Patience(20.0, 8 << 20)


class Access(Protocol):
    """Where and as whom to ask. Read-only, so that a frozen config model is one."""

    @property
    def region(self) -> str: ...
    @property
    def profile(self) -> str | None: ...
    @property
    def role_arn(self) -> str | None: ...
    @property
    def external_id(self) -> str | None: ...
    @property
    def endpoint_url(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Account:
    """An `Access` from a command line. An empty region: as the environment or the profile has it."""

    region: str = ""
    profile: str | None = None
    role_arn: str | None = None
    external_id: str | None = None
    endpoint_url: str | None = None


def make_client(access: Access, service: str = "ec2", *, patience: Patience = HASTY) -> Any:
    """A client of one service: explicit timeouts, one attempt.

    Raises:
        BotoCoreError: Without a region or a profile of that name; without credentials to assume a role with.
    """
    settings = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=patience.read_timeout_s,
        retries={"total_max_attempts": 1, "mode": "standard"},
        user_agent_extra="haprobe",
    )
    session = _session(access)
    if access.role_arn:
        session = _assumed(session, access, settings, patience)
    # An own session: the module-level default one is not safe to share between threads.
    wrapped = boto3.session.Session(botocore_session=session)
    return bounded(wrapped.client(service, endpoint_url=access.endpoint_url, config=settings), patience)


class TooLongError(BotoCoreError):  # type: ignore[misc]  # botocore has no types
    """An answer of more octets, or more pages, than one can have."""

    fmt = "the answer has more than {limit} {what}"


def bounded(client: Any, patience: Patience = HASTY) -> Any:
    """The client, whose answers are read to their end only up to a size and for so long."""
    endpoint = client._endpoint
    endpoint.http_session = _BoundedSession(endpoint.http_session, patience)
    return client


class _BoundedSession:
    """Stands in for botocore's session of HTTP connections.

    Args:
        session: It.
        patience: With one answer.
    """

    def __init__(self, session: Any, patience: Patience):
        self._session = session
        self._limit_s = max(TOTAL_TIMEOUT_S, patience.read_timeout_s)
        self._most = patience.max_body

    def send(self, request: Any) -> Any:
        """As of botocore's, which reads nothing of the body where it is to be streamed."""
        deadline = time.monotonic() + self._limit_s
        streamed, request.stream_output = request.stream_output, True
        response = self._session.send(request)
        if not streamed:
            try:
                response._content = self._body(response.raw, deadline, request.url)
            except BaseException:
                response.raw.close()  # with what may still come on that connection
                raise
            refuse_depth(response._content)
        return response

    def close(self) -> None:
        self._session.close()

    def _body(self, raw: Any, deadline: float, url: str) -> bytes:
        body = bytearray()
        while piece := _piece(raw, url):
            body += piece
            if len(body) > self._most:
                body.clear()  # an error lives on in its traceback, and its frames with it
                raise TooLongError(limit=self._most, what="octets")
            if time.monotonic() > deadline:
                body.clear()
                raise ReadTimeoutError(endpoint_url=url, error="it trickles")
        return bytes(body)


def refuse_depth(body: bytes) -> None:
    """Read XML without keeping any of it. What is not XML, or not to its end, is left to the SDK.

    Raises:
        ResponseParserError: If its elements are nested more than MAX_DEPTH deep.
    """
    depth = 0

    def enter(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise ResponseParserError(f"elements nested more than {MAX_DEPTH} deep")

    def leave(name: str) -> None:
        nonlocal depth
        depth -= 1

    reader = expat.ParserCreate()
    reader.StartElementHandler, reader.EndElementHandler = enter, leave
    with contextlib.suppress(expat.ExpatError):
        reader.Parse(body, True)


def _piece(raw: Any, url: str) -> bytes:
    """What has come of a body, without waiting for more than some of it; with the errors of botocore."""
    try:
        piece: bytes = raw.read1(65_536)
    except UrllibReadTimeoutError as error:
        raise ReadTimeoutError(endpoint_url=url, error=error) from error
    except (UrllibHTTPError, OSError) as error:
        raise ConnectionClosedError(endpoint_url=url, error=error) from error
    return piece


def _session(access: Access) -> botocore.session.Session:
    session = botocore.session.Session(profile=access.profile)
    # Of the two variables that name a region, botocore itself reads AWS_DEFAULT_REGION only.
    region = access.region or os.environ.get("AWS_REGION")
    if region:
        session.set_config_variable("region", region)
    session.set_config_variable("ec2_metadata_v1_disabled", True)
    return session


def _assumed(
    source: botocore.session.Session, access: Access, settings: Config, patience: Patience
) -> botocore.session.Session:
    """A session that is the role, renewed by botocore before it runs out."""
    credentials = source.get_credentials()
    if credentials is None:
        raise NoCredentialsError
    extra = {"RoleSessionName": ROLE_SESSION}
    if access.external_id:
        extra["ExternalId"] = access.external_id

    def create_client(service: str, **arguments: Any) -> Any:
        return bounded(source.create_client(service, config=settings, **arguments), patience)

    fetcher = AssumeRoleCredentialFetcher(create_client, credentials, access.role_arn, extra_args=extra)
    session = _session(access)
    session._credentials = DeferredRefreshableCredentials(fetcher.fetch_credentials, "assume-role")
    return session


def result_of(error: Exception) -> str:
    """A short name for what went wrong: the API's error code, or the way in which it was not reached."""
    if isinstance(error, ClientError):
        code = error.response.get("Error", {}).get("Code")
        return str(code or error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", "error"))
    if isinstance(error, ConnectTimeoutError | ReadTimeoutError):
        return "timeout"
    if isinstance(error, EndpointConnectionError):
        return "dns" if isinstance(error.kwargs.get("error"), NameResolutionError) else "unreachable"
    if isinstance(error, ConnectionClosedError):
        return "connection_closed"
    if isinstance(error, SSLError):
        return "tls"
    if isinstance(error, TooLongError):
        return "too_long"
    if isinstance(error, OverdueError):
        return "timeout"
    if isinstance(error, NoCredentialsError | PartialCredentialsError | CredentialRetrievalError):
        return "no_credentials"
    return type(error).__name__


def explained(error: BotoCoreError | ClientError, access: Access, action: str) -> HaprobeError:
    """An error of the SDK as one that tells a user what to do.

    Args:
        error: What boto3 raised.
        access: Whose call it was.
        action: The IAM action that was needed, such as `ec2:DescribeInstances`.
    """
    if isinstance(error, NoRegionError):
        return UsageError("no AWS region; give --region, or set AWS_REGION, or a region in the profile")
    if isinstance(error, ProfileNotFound):
        return UsageError(f"there is no AWS profile {access.profile!r}; `aws configure list-profiles` lists them")
    result = result_of(error)
    if result == "no_credentials":
        return PrivilegeError(
            "no AWS credentials; give --profile, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or attach an"
            f" instance role that allows {action}"
        )
    if isinstance(error, ClientError):
        # The refused call may be the one for the role itself.
        needed = "sts:AssumeRole" if error.operation_name == "AssumeRole" else action
        message = error.response.get("Error", {}).get("Message", "")
        if result in DENIED:
            who = f" on {access.role_arn}" if needed == "sts:AssumeRole" else ""
            return PrivilegeError(
                f"AWS denied {needed}{who} ({result}); allow {needed} for these credentials:"
                " `haprobe discover aws --policy` prints the policy"
            )
        if result in BAD_KEYS:
            return PrivilegeError(f"AWS does not accept these credentials for {needed} ({result}): {message}")
        if result.startswith("Invalid"):  # an id or a value that the user gave
            return UsageError(f"AWS does not know what {needed} was asked about ({result}): {message}")
        return PeerError(f"AWS refused {needed}: {result}: {message}")
    if isinstance(error, HTTPClientError | ConnectError):
        where = access.endpoint_url or f"the endpoint of {action.partition(':')[0]} in {access.region or 'this region'}"
        return PeerError(f"{where} could not be reached for {action} ({result}); check the region, DNS and the way out")
    return UsageError(f"AWS cannot be asked ({result}): {error}")
