"""Where moto differs from EC2 in a way that matters here, put right. One function or class per difference.

Some differences are put right on the way in (`Corrections`, WSGI middleware around moto), some in moto's own
objects (`correct_models`). Each names what moto 5.2 does and what EC2 does. What the lab does not use stays moto's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.ec2.models.elastic_ip_addresses import ElasticAddress
from moto.ec2.models.route_tables import Route
from werkzeug.test import run_wsgi_app

from probe.lab.query import ApiError, Call, Environ, StartResponse, WsgiApp, read_call

Before = Callable[[Call, Any], ApiError | None]


# ---------------------------------------------------------------------- on the way in


def dry_run_never_executes(call: Call, backend: Any) -> ApiError | None:
    """Moto carries out ReplaceRoute and others with DryRun set; EC2 only says that it would have."""
    if call.fields.get("DryRun", "").lower() == "true":
        return ApiError(412, "DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
    return None


def existing_route_is_an_error(call: Call, backend: Any) -> ApiError | None:
    """Moto overwrites a route by CreateRoute when the new target is an interface; EC2 refuses."""
    if call.action != "CreateRoute":
        return None
    table = backend.route_tables.get(call.fields.get("RouteTableId", ""))
    destination = call.fields.get("DestinationCidrBlock", "")
    if table and any(route.destination_cidr_block == destination for route in table.routes):
        return ApiError(400, "RouteAlreadyExists", f"The route identified by {destination} already exists.")
    return None


def private_address_must_be_the_interfaces(call: Call, backend: Any) -> ApiError | None:
    """Moto ignores AssociateAddress's PrivateIpAddress; EC2 refuses one that the interface lacks."""
    wanted = call.fields.get("PrivateIpAddress")
    eni = backend.enis.get(call.fields.get("NetworkInterfaceId", ""))
    if call.action != "AssociateAddress" or not wanted or eni is None or wanted in _addresses(eni):
        return None
    return ApiError(400, "InvalidParameterValue", f"The address {wanted} is not assigned to {eni.id}.")


def reassociation_is_the_default(call: Call, backend: Any) -> ApiError | None:
    """Moto refuses to move an EIP without AllowReassociation; in a VPC, EC2 moves it unless that is false."""
    if call.action == "AssociateAddress":
        call.fields.setdefault("AllowReassociation", "true")
    return None


def an_address_in_use_stays(call: Call, backend: Any) -> ApiError | None:
    """Moto gives a private address to a second interface; EC2 moves it with AllowReassignment, and refuses without."""
    if call.action != "AssignPrivateIpAddresses" or call.fields.get("AllowReassignment", "").lower() == "true":
        return None
    own = call.fields.get("NetworkInterfaceId")
    for address in _asked_for(call):
        if any(address in _addresses(eni) for eni in backend.enis.values() if eni.id != own):
            return ApiError(400, "InvalidParameterValue", f"[{address}] is already assigned to another interface.")
    return None


def _asked_for(call: Call) -> list[str]:
    return [value for name, value in call.fields.items() if name.startswith("PrivateIpAddress.")]


def _addresses(eni: Any) -> list[str]:
    return [one["PrivateIpAddress"] for one in eni.private_ip_addresses]


class AddressMoves:
    """After a private address was assigned anew, moto has it at both interfaces, and its EIP at the old one.

    EC2 has it at the new one alone, and its EIP with it.
    """

    def __init__(self, call: Call, backend: Any):
        self._backend = backend
        self._to = backend.enis.get(call.fields.get("NetworkInterfaceId", ""))
        self._moved = _asked_for(call) if call.action == "AssignPrivateIpAddresses" else []

    def after(self) -> None:
        for address in self._moved:
            for eni in self._backend.enis.values():
                if eni is self._to or address not in _addresses(eni):
                    continue
                eni.private_ip_addresses = [
                    one for one in eni.private_ip_addresses if one["PrivateIpAddress"] != address
                ]
                for eip in self._backend.addresses:
                    if eip.eni is eni and _eip_address(eip) == address:
                        eip.eni, eip.instance, self._to.public_ip = self._to, None, eip.public_ip
                        eni.public_ip = None


class AssociationMoves:
    """After an EIP has moved, moto still shows it at its old interface as well; EC2 at the new one only.

    Moto knows no private address of an association; EC2 tells the one asked for.
    """

    def __init__(self, call: Call, backend: Any):
        self._backend = backend
        self._allocation = call.fields.get("AllocationId", "")
        eip = self._eip() if call.action == "AssociateAddress" else None
        self._old_eni = eip.eni if eip else None
        self._private_ip = call.fields.get("PrivateIpAddress", "") if eip else None

    def after(self) -> None:
        eip = self._eip()
        if eip is not None and self._private_ip is not None:
            eip.associated_with = self._private_ip
        if eip is None or eip.eni is None:
            return
        if self._old_eni is not None and self._old_eni is not eip.eni and self._old_eni.public_ip == eip.public_ip:
            self._old_eni.public_ip = None

    def _eip(self) -> Any:
        return next((one for one in self._backend.addresses if one.allocation_id == self._allocation), None)


BEFORE: tuple[Before, ...] = (
    dry_run_never_executes,
    existing_route_is_an_error,
    private_address_must_be_the_interfaces,
    an_address_in_use_stays,
    reassociation_is_the_default,
)


class Corrections:
    """WSGI middleware around moto that makes it answer as EC2 would, one call at a time.

    Args:
        app: moto's server application.
        backend: moto's EC2 model of the account and region, in this process.
        on_change: Called after every mutating call that succeeded, before it is answered.
    """

    def __init__(self, app: WsgiApp, backend: Any, on_change: Callable[[Call], None] | None = None):
        self._app = app
        self._backend = backend
        self._on_change = on_change
        self._lock = threading.Lock()  # moto's models are not made for concurrent calls

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        call = read_call(environ)
        with self._lock:
            for correct in BEFORE:
                refusal = correct(call, self._backend)
                if refusal is not None:
                    return refusal.respond(start_response)
            if call.action:
                call.put_into(environ)
            moves = (AssociationMoves(call, self._backend), AddressMoves(call, self._backend))
            body, status, headers = run_wsgi_app(self._app, environ, buffered=True)
            succeeded = status.startswith("200")
            if succeeded:
                for move in moves:
                    move.after()
        if succeeded and call.mutating and self._on_change is not None:
            self._on_change(call)
        start_response(status, list(headers))
        return body


# ---------------------------------------------------------------------- in moto's objects


def _route_state(route: Any) -> str:
    """Moto calls every route active; EC2 a black hole when its interface is gone or its instance not running."""
    eni = route.interface
    if eni is None:
        return "active"
    if eni.id not in eni.ec2_backend.enis:
        return "blackhole"
    running = eni.instance is None or eni.instance.state == "running"
    return "active" if running else "blackhole"


def _route_instance(route: Any) -> str | None:
    """Moto leaves InstanceId out of a route to an attached interface; EC2 gives both."""
    if route.instance:
        return str(route.instance.id)
    return str(route.interface.instance.id) if route.interface and route.interface.instance else None


def _eip_instance(eip: Any) -> str:
    """Moto forgets the instance after an association by interface id."""
    instance = eip.instance or (eip.eni.instance if eip.eni else None)
    return str(instance.id) if instance else ""


def _eip_address(eip: Any) -> str | None:
    """Moto always tells the interface's primary address; EC2 the one that was asked for."""
    if eip.eni is None:
        return None
    return getattr(eip, "associated_with", "") or str(eip.eni.private_ip_address)


def correct_models() -> None:
    """Put right what moto's objects say of themselves, for this process. Calling it again changes nothing."""
    truths: tuple[tuple[type, str, Callable[[Any], str | None]], ...] = (
        (Route, "state", _route_state),
        (Route, "instance_id", _route_instance),
        (ElasticAddress, "instance_id", _eip_instance),
        (ElasticAddress, "private_ip_address", _eip_address),
    )
    for model, name, truth in truths:
        setattr(model, name, property(truth))
