"""EC2 clients for the lab's own cloud."""

from __future__ import annotations

import functools
import os
import threading
from typing import Any

import boto3
import botocore.session
from botocore.config import Config

from probe.lab.plan import REGION

PATIENT_S = 60.0  # for who asks first: moto loads all of EC2 then, which takes seconds on a busy host

_making = threading.Lock()  # clients may be used by any thread, but a session makes them one at a time


@functools.cache
def _session() -> boto3.session.Session:
    """One for all: it keeps EC2's large service model in memory. No profile, no config file."""
    nothing = dict.fromkeys(("config_file", "credentials_file"), (None, None, os.devnull, None))
    session = botocore.session.Session(session_vars={**nothing, "profile": (None, None, None, None)})
    return boto3.session.Session(botocore_session=session)


def lab_client(endpoint_url: str, caller: str, *, connect_timeout_s: float = 2.0, read_timeout_s: float = 5.0) -> Any:
    """A client that signs as `caller` (the name the lab's fault rules go by), asks once and never goes elsewhere.

    Nothing of the user's environment reaches it: no credentials, no proxy, no retries.
    """
    settings = Config(
        connect_timeout=connect_timeout_s,
        read_timeout=read_timeout_s,
        retries={"total_max_attempts": 1, "mode": "standard"},
        proxies={},
    )
    with _making:
        return _session().client(
            "ec2",
            region_name=REGION,
            endpoint_url=endpoint_url,
            aws_access_key_id=caller,
            aws_secret_access_key="lab",
            config=settings,
        )
