"""Who may ask the page for what: requests that its own script never makes are refused before Gradio sees them.

A page of this machine can be reached by every site that its browser visits. Such a request carries the name of that site, as
`Origin`, or as `Host` where the site's name was made to point here.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse

LARGEST_REQUEST = 1 << 16  # bytes
SHARED = '.gradio.live'  # where --share makes links
_NEVER_ASKED = ('/upload', '/proxy=', '/process_recording', '/stream/')


class Gate:
    """The application behind the refusals.

    Args:
        app: the application.
        host: the name that the page was told to listen on.
        share: whether it has a public link, too.
    """

    def __init__(self, app: Any, host: str, share: bool = False) -> None:
        self.app = app
        self.names = {'localhost', host.casefold(), socket.gethostname().casefold()}
        self.share = share

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request, or refuse it in a sentence."""
        if scope['type'] in ('http', 'websocket'):
            refused = self.refusal(scope['path'], Headers(scope=scope))
            if refused is not None:
                code, sentence = refused
                await PlainTextResponse(sentence, code)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def refusal(self, path: str, headers: Mapping[str, str]) -> tuple[int, str] | None:
        """The code and the sentence of a refusal; None for a request that is answered."""
        host, origin, size = headers.get('host', ''), headers.get('origin'), headers.get('content-length', '0')
        if not self._is_known(host):
            return 400, f'the page is not known as {host[:80]!r}'
        if origin is not None and urlsplit(origin).netloc != host and not (self.share and origin.endswith(SHARED)):
            return 403, f'the page does not answer the site {origin[:80]!r}'
        if any(part in path for part in _NEVER_ASKED):
            return 403, 'the page takes no files'
        if not (size.isdecimal() and int(size[:20]) <= LARGEST_REQUEST) or 'transfer-encoding' in headers:
            return 413, f'a request has at most {LARGEST_REQUEST:,} bytes, and says how many'
        return None

    def _is_known(self, host: str) -> bool:
        """Whether a request was sent to this page by its name or by an address in numbers, which no other site can take."""
        try:
            name = (urlsplit(f'//{host}').hostname or '').casefold()
        except ValueError:  # half of an address
            return False
        if name in self.names or (self.share and name.endswith(SHARED)):
            return True
        try:
            return bool(ipaddress.ip_address(name))
        except ValueError:
            return False


def can_listen(host: str) -> bool:
    """Whether a name or an address is one of this machine, on which a server can listen."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE) if host.strip() else ()
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as tried:
                tried.bind(address)
                return True
    except (OSError, UnicodeError):
        return False
    return False
