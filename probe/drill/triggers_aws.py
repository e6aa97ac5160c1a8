"""Failovers by taking the active unit's instance away: stopped or rebooted through the EC2 API."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

from botocore.exceptions import BotoCoreError, ClientError

from probe.clock import Clock, SystemClock
from probe.core.events import TimelineEvent
from probe.drill.triggers import Trigger
from probe.errors import HaprobeError, PeerError
from probe.watch.access import PATIENT, Access, explained, make_client, result_of

STOPPED_LIMIT_S = 300.0  # until an instance that was told to stop may be started again
STOPPED_POLL_S = 2.0


class InstanceTrigger(Trigger):
    """Stops or reboots an instance: to its peer, a crash.

    Args:
        how: Which.
        access: Where and as whom.
        instance: Its id.
        unit: The unit it is; has to be the active one.
        force: For `stop`: without a shutdown of the operating system.
        undo: For `stop`: start it again after the drill.
        clock: Stamps the call.
        sleep: Waits for the given seconds.
    """

    outside = True

    def __init__(
        self,
        how: Literal["stop", "reboot"],
        access: Access,
        instance: str,
        *,
        unit: str = "",
        force: bool = False,
        undo: bool = False,
        clock: Clock | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.kind = f"aws-{how}-instance"
        self.unit = unit
        self._how = how
        self._access = access
        self._instance = instance
        self._force = force
        self._undo = undo
        self._clock = clock or SystemClock()
        self._sleep = sleep
        self._client: Any = None
        self._answered_ns = 0

    def describe(self) -> str:
        whose = f", unit {self.unit}" if self.unit else ""
        force = " by force" if self._force else ""
        return f"crash: {self._how} instance {self._instance}{whose} in {self._access.region}{force}"

    def rehearse(self) -> str:
        action = "StopInstances" if self._how == "stop" else "RebootInstances"
        try:
            self._act(DryRun=True)
        except ClientError as error:
            if result_of(error) == "DryRunOperation":
                return f"EC2 would carry out {action} on {self._instance} for these credentials"
            raise explained(error, self._access, f"ec2:{action}") from error
        except BotoCoreError as error:
            raise explained(error, self._access, f"ec2:{action}") from error
        raise PeerError(f"{self._access.endpoint_url or 'EC2'} does not know DryRun: it has carried out {action}")

    def fire(self) -> int:
        action = "ec2:StopInstances" if self._how == "stop" else "ec2:RebootInstances"
        # Made beforehand: reading EC2's service model takes long enough to blur the stamp.
        self._ec2(action)
        at_ns = self._clock.wall_ns()
        try:
            self._act()
        except (ClientError, BotoCoreError) as error:
            problem = explained(error, self._access, action)
            if result_of(error) == "timeout":
                problem = PeerError(f"{problem}; it may have been carried out. To undo it: {self.undo()}")
            raise problem from error
        self._answered_ns = self._clock.wall_ns()
        return at_ns

    def event(self, at_ns: int) -> TimelineEvent:
        detail = {"kind": self.kind, "unit": self.unit, "instance_id": self._instance, "force": self._force}
        return TimelineEvent(at_ns, "aws", "trigger", 0, {**detail, "answered_ns": self._answered_ns})

    def undo(self) -> str:
        if self._how == "reboot":
            return f"nothing to do: {self._instance} starts by itself; priority and uptime decide who is primary then"
        return f"aws ec2 start-instances --region {self._access.region} --instance-ids {self._instance}"

    def revert(self) -> str:
        """Start a stopped instance again; one that is still stopping is waited for, since EC2 refuses to start it."""
        if not self._undo or not self._answered_ns:
            return ""
        action = "ec2:DescribeInstances"
        try:
            client = self._ec2(action)
            deadline = time.monotonic() + STOPPED_LIMIT_S
            while (state := self._state(client)) == "stopping":
                if time.monotonic() > deadline:
                    raise HaprobeError(f"not undone: {self._instance} is still stopping; later: {self.undo()}")
                self._sleep(STOPPED_POLL_S)
            action = "ec2:StartInstances"
            client.start_instances(InstanceIds=[self._instance])
        except (ClientError, BotoCoreError) as error:
            problem = explained(error, self._access, action)
            raise type(problem)(f"not undone: {problem}; by hand: {self.undo()}") from error
        return f"started {self._instance} again (it was {state})"

    def _state(self, client: Any) -> str:
        (reservation,) = client.describe_instances(InstanceIds=[self._instance])["Reservations"]
        return str(reservation["Instances"][0]["State"]["Name"])

    def _act(self, **more: Any) -> None:
        client, ids = self._ec2("ec2:StopInstances"), [self._instance]
        if self._how == "stop":
            client.stop_instances(InstanceIds=ids, Force=self._force, **more)
        else:
            client.reboot_instances(InstanceIds=ids, **more)

    def _ec2(self, action: str) -> Any:
        if self._client is None:
            try:
                self._client = make_client(self._access, patience=PATIENT)
            except (ClientError, BotoCoreError) as error:
                raise explained(error, self._access, action) from error
        return self._client
