"""What a refusal of the EC2 API means for a failover, and what to look at first.

Known by the error code of the XML body where there is one, else by the HTTP status. No public capture shows a refused
HA failover; the form of the lines is that of the daemon's SDN connector, the codes are those of the EC2 API.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Remedy:
    """What a code or status means, and what to check first. `{action}` and `{role}` are filled in."""

    meaning: str
    check_first: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Body:
    """What could be read from an XML error body, however it was wrapped or cut."""

    code: str = ""
    message: str = ""
    denied_action: str = ""


_REACH = (
    "DNS of the unit: does ec2.REGION.amazonaws.com resolve from its management interface?",
    "The way from the HA management interface to the EC2 API: an interface endpoint, or a route to the Internet.",
    "The security groups of that interface and of the endpoint: TCP 443.",
)
_CLOCK = ("The unit's clock: `execute time`, `diagnose sys ntp status`. Signatures are valid for minutes.",)
_IAM = (
    "IAM: does {role} allow {action} on this resource?",
    "A policy of the EC2 endpoint, a permissions boundary or an organisation's policy may deny it, too.",
    "CloudTrail: the call with its errorCode and the identity that made it.",
)
_REPEATED = ("Was the call repeated later in the capture, and confirmed? Is there an incident of AWS?",)
_STALE = ("`diagnose test application awsd 4`: does what awsd knows agree with what the account holds now?",)

# By error code; a code also covers those that extend it by a dot: InvalidNetworkInterfaceID.NotFound.
CODES: dict[str, Remedy] = {
    "UnauthorizedOperation": Remedy("Permission is missing: the role of the instance may not call {action}.", _IAM),
    "AuthFailure": Remedy(
        "The credentials themselves were not accepted.",
        (
            "The instance's role: is one attached, and does the metadata service hand out its credentials?",
            "If an SDN connector made the call: its access key and secret.",
            *_CLOCK,
        ),
    ),
    "RequestLimitExceeded": Remedy(
        "Too many API calls: the account's bucket for {action} in this region is empty. The pair itself is well.",
        (
            "Who else calls the EC2 API in this account and region: CloudTrail, by source.",
            "Was the call repeated later in the capture, and confirmed?",
        ),
    ),
    "RequestExpired": Remedy("The request's signature was too old, or from the future.", _CLOCK),
    "SignatureDoesNotMatch": Remedy("The signature did not fit: wrong keys, or a wrong clock.", _CLOCK),
    "InvalidClientTokenId": Remedy(
        "The access key does not exist, or belongs to another partition.", ("The keys, or the instance's role.",)
    ),
    "InvalidNetworkInterfaceID": Remedy(
        "The network interface does not exist: awsd names one that is gone, or of another account or region.",
        ("Was the unit rebuilt? Its interfaces have new ids then.", *_STALE),
    ),
    "InvalidRouteTableID": Remedy("The route table does not exist (any more).", _STALE),
    "InvalidAllocationID": Remedy("The elastic IP was released, or belongs to another account or region.", _STALE),
    "InvalidAddress": Remedy("The elastic IP was released, or belongs to another account or region.", _STALE),
    "InvalidAssociationID": Remedy("The association that was to be replaced is gone already.", _STALE),
    "InvalidInstanceID": Remedy("The instance does not exist (any more): was a unit terminated?", _STALE),
    "InvalidRoute": Remedy("The table has no such route to replace.", _STALE),
    "InvalidParameterValue": Remedy(
        "A value does not fit: an address that the interface does not have, or a route that the table does not have.",
        (
            "The secondary addresses of this unit's port1: one for each elastic IP of the peer.",
            "The route: does it still exist in the table?",
        ),
    ),
    "Resource.AlreadyAssociated": Remedy(
        "The elastic IP is associated elsewhere and may not be taken from there.",
        ("Which interface holds it: `aws ec2 describe-addresses`.",),
    ),
    "IncorrectState": Remedy("The resource is in a state that does not allow this now.", _STALE),
    "IncorrectInstanceState": Remedy("The instance is in a state that forbids it: stopping, for example.", _STALE),
    "OptInRequired": Remedy("The account is not subscribed to what the call needs.", ("The account and region.",)),
    "Blocked": Remedy("AWS has blocked the account.", ("AWS support.",)),
    "InternalError": Remedy("AWS failed inside.", _REPEATED),
    "Unavailable": Remedy("The API is overloaded or down.", _REPEATED),
}
_SAME = {"Throttling": "RequestLimitExceeded", "ServiceUnavailable": "Unavailable", "ExpiredToken": "RequestExpired"}

NO_ANSWER = Remedy("No answer: the API could not be reached, or did not answer in time.", _REACH)
NOT_HTTP = Remedy(
    "Not an HTTP status. If it is curl's own: 6 name not resolved, 7 refused, 28 timed out, 35 and 60 TLS.", _REACH
)
UNKNOWN = Remedy("The call failed; neither its status nor its code is known here.", _REACH)
# By HTTP status, where no code was readable.
STATUSES: dict[int, Remedy] = {
    400: Remedy(
        "The request was not accepted as it stands; the code of the answer would tell why.",
        ("The rest of the answer: capture with `diagnose debug application awsd -1`.", *_STALE),
    ),
    401: CODES["AuthFailure"],
    403: CODES["UnauthorizedOperation"],
    407: Remedy("A proxy stands between the unit and the API, and wants to be logged in to.", _REACH),
    429: CODES["RequestLimitExceeded"],
    500: CODES["InternalError"],
    502: CODES["Unavailable"],
    503: CODES["Unavailable"],
    504: Remedy("A gateway on the way got no answer from the API.", _REACH),
}

_CODE = re.compile(r"<Code>([\w.]+)</Code>")
_MESSAGE = re.compile(r"<Message>(.*?)(?:</Message|$)", re.DOTALL)
_DENIED = re.compile(r"not authorized to perform:? ?([a-z0-9-]+:[A-Za-z]+)")


def read_body(text: str) -> Body:
    """Read code and message from an error body whose wrapped lines have been joined without anything in between."""
    code = _CODE.search(re.sub(r"\s+", "", text))
    found = _MESSAGE.search(text)
    message = " ".join(html.unescape(found[1]).split()) if found else ""
    denied = _DENIED.search(message)
    return Body(code[1] if code else "", message, denied[1] if denied else "")


def remedy(status: int | None, code: str) -> Remedy:
    """What a refusal means: by its code if that is known, else by its status.

    Args:
        status: HTTP status; 0 or less, or None, where there was no answer.
        code: Error code of the body; empty when there is none.
    """
    code = _SAME.get(code, code)
    for known in (code, code.split(".")[0]):
        if known in CODES:
            return CODES[known]
    if code and status not in (401, 403, 429):
        return Remedy(f"The API refused the call with {code}, a code not known here.", _STALE)
    if status is None:
        return UNKNOWN
    if status <= 0:
        return NO_ANSWER
    if status in STATUSES:
        return STATUSES[status]
    if status < 100:
        return NOT_HTTP
    return CODES["Unavailable"] if 500 <= status < 600 else UNKNOWN
