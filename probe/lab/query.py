"""The EC2 query protocol, as far as something in front of a server has to understand it.

A call is a POST of form fields (`Action=ReplaceRoute&RouteTableId=...`); an error is a small XML document. Who
calls is told by the access key in the signature, which nobody verifies here: in the lab it is just a name.
"""

from __future__ import annotations

import http
import io
import re
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode
from xml.sax.saxutils import escape

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
WsgiApp = Callable[[Environ, StartResponse], Iterable[bytes]]

_CREDENTIAL = re.compile(r"Credential=([^/,\s]+)/")


@dataclass(slots=True)
class Call:
    """One API call: who, what, with which fields. Changing `fields` and calling `put_into` changes the call."""

    caller: str  # access key id; "" when unsigned
    action: str
    fields: dict[str, str]

    @property
    def mutating(self) -> bool:
        return bool(self.action) and not self.action.startswith(("Describe", "Get", "Search", "List"))

    def put_into(self, environ: Environ) -> None:
        """Make these fields the request's body."""
        body = urlencode(self.fields).encode()
        environ["wsgi.input"] = io.BytesIO(body)
        environ["CONTENT_LENGTH"] = str(len(body))


@dataclass(frozen=True, slots=True)
class ApiError:
    """An error answer in EC2's form."""

    status: int
    code: str
    message: str

    def respond(self, start_response: StartResponse) -> list[bytes]:
        """Answer a request with it."""
        body = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<Response><Errors><Error><Code>{escape(self.code)}</Code><Message>{escape(self.message)}</Message>"
            f"</Error></Errors><RequestID>{uuid.uuid4()}</RequestID></Response>"
        ).encode()
        headers = [("Content-Type", "text/xml;charset=UTF-8"), ("Content-Length", str(len(body)))]
        start_response(f"{self.status} {http.HTTPStatus(self.status).phrase}", headers)
        return [body]


def read_body(environ: Environ) -> bytes:
    """The request's body, put back so that the next in line can read it, too."""
    body: bytes = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = io.BytesIO(body)
    return body


def read_call(environ: Environ) -> Call:
    """The API call in a request; with an empty action if it is none."""
    fields = dict(parse_qsl(read_body(environ).decode("utf-8", "replace"), keep_blank_values=True))
    signature = _CREDENTIAL.search(environ.get("HTTP_AUTHORIZATION", ""))
    return Call(signature[1] if signature else "", fields.get("Action", ""), fields)
