"""What a call to the cloud that failed means, and what to look at first: as data, by the error that was told.

Errors come from several tellers: a unit's own debug output and the lab ("UnauthorizedOperation", "403
UnauthorizedOperation", "no answer from the API", "timeout", "dns"), and CloudTrail ("Client.UnauthorizedOperation").
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Remedy:
    """One kind of failure. It is meant where any of `words` occurs in an error."""

    words: tuple[str, ...]
    cause: str
    check_first: tuple[str, ...]


REMEDIES: tuple[Remedy, ...] = (
    Remedy(
        ("UnauthorizedOperation", "AccessDenied"),
        "The unit's role may not make these calls.",
        (
            "The policies of the instance's role: do they allow ec2:AssociateAddress and ec2:ReplaceRoute on these"
            " resources, and ec2:Describe* on all? `aws iam simulate-principal-policy --policy-source-arn ROLE_ARN"
            " --action-names ec2:AssociateAddress ec2:ReplaceRoute`",
            "A policy of the EC2 endpoint, a permissions boundary or an organisation's policy may deny it, too.",
            "CloudTrail, event AssociateAddress or ReplaceRoute: its errorCode and who called"
            " (`haprobe report RUN --backfill` fetches them).",
        ),
    ),
    Remedy(
        ("RequestLimitExceeded", "Throttling", "TooManyRequests"),
        "The account's API budget in this region is spent; the pair itself is well.",
        (
            "Who else calls EC2 in this account and region: CloudTrail, by caller and source address.",
            "Once calls pass again: `diagnose test application awsd 4` on the new primary shows what still points at"
            " the old one.",
        ),
    ),
    Remedy(
        ("dns", "not resolved", "resolve"),
        "The unit cannot resolve the name of the EC2 API.",
        (
            "On the unit: `execute ping ec2.REGION.amazonaws.com`; `show system dns` (any VPC has 169.254.169.253).",
            "The name is asked for from the HA management interface: does that reach the DNS server?",
            "With an interface endpoint: is its private DNS name enabled?",
        ),
    ),
    Remedy(
        ("timeout", "timed out", "no answer", "unreachable", "connection_closed", "tls"),
        "The EC2 API did not answer the unit.",
        (
            "The way from the HA management interface to the EC2 API: an interface endpoint in its subnet, or a"
            " route to the Internet (`show system ha`: ha-mgmt-interfaces and their gateway).",
            "The security groups of that interface and of the endpoint: TCP 443.",
            "Edge (gateway) route tables: does a route of this unit's management subnet point at the *other* unit's"
            " management interface? An earlier failover rewrites such a route."
            " `aws ec2 describe-route-tables --filters Name=association.gateway-id,Values=IGW`",
            "`diagnose test application awsd 3` on the unit tests the API without a failover.",
        ),
    ),
)


def remedies(errors: Iterable[str]) -> list[Remedy]:
    """The remedies that errors ask for, in the order of `REMEDIES`, each once."""
    told = [error.lower() for error in errors]
    return [one for one in REMEDIES if any(word.lower() in error for word in one.words for error in told)]
