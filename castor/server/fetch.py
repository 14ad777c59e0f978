"""Fetching media from addresses, where a server allows it: never from inside its own network.

A name is resolved once, every address it stands for must be public, and the connection goes to the address that was
checked, so that a second answer of the DNS changes nothing. The same holds for each redirect. Proxies are not used.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import SplitResult, urljoin, urlsplit

MAX_REDIRECTS = 3
REDIRECTS = (301, 302, 303, 307, 308)
PIECE = 64 * 1024
Resolve = Callable[[str, int], list[str]]


class FetchError(ValueError):
    """An address that is not fetched, or that gave nothing usable."""


def resolve(host: str, port: int) -> list[str]:
    """All addresses of a name."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise FetchError(f"{host[:100]}: no such host ({error})") from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def check_public(address: str) -> None:
    """FetchError for an address that is not public: private, local, reserved, or such an IPv4 within an IPv6."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    inner = [ip]
    if isinstance(ip, ipaddress.IPv6Address):
        teredo = ip.teredo or ()
        inner += [v4 for v4 in (ip.ipv4_mapped, ip.sixtofour, *teredo) if v4 is not None]
        if ip in ipaddress.ip_network("64:ff9b::/96") or ip in ipaddress.ip_network("::/96"):
            inner.append(ipaddress.ip_address(int(ip) & 0xFFFFFFFF))
    if not all(one.is_global and not one.is_multicast and not one.is_reserved for one in inner):
        raise FetchError(f"{address} is not a public address; nothing is fetched from there")


@dataclass(frozen=True, kw_only=True)
class Fetcher:
    """Fetches over http and https; `allowed_ports` of either."""

    max_bytes: int
    timeout_s: float = 30.0  # for all of it
    allowed_ports: tuple[int, ...] = (80, 443)
    resolve: Resolve = resolve
    check: Callable[[str], None] = check_public

    def fetch(self, url: str) -> tuple[bytes, str]:
        """Content and media type, "" where none is stated. FetchError says why not."""
        end_s = time.monotonic() + self.timeout_s
        for _ in range(MAX_REDIRECTS + 1):
            parts = self._checked(url)
            connection = self._connection(parts, end_s)
            timer = threading.Timer(max(0.1, end_s - time.monotonic()), connection.abort)
            timer.start()
            try:
                response = self._ask(parts, connection)
                if response.status not in REDIRECTS:
                    return self._content(url, response, end_s)
                url = urljoin(url, response.getheader("location") or "")
            finally:
                timer.cancel()
                connection.close()
        raise FetchError(f"{url[:200]}: more than {MAX_REDIRECTS} redirects")

    def _checked(self, url: str) -> SplitResult:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise FetchError(f"{url[:200]}: {error}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise FetchError(f"{url[:200]}: only http:// and https:// addresses are fetched")
        if parts.username is not None or parts.password is not None:
            raise FetchError("an address with a name or password in it is not fetched")
        if (port or (443 if parts.scheme == "https" else 80)) not in self.allowed_ports:
            raise FetchError(f"{url[:200]}: only the ports {', '.join(map(str, self.allowed_ports))} are used")
        if not url.isascii() or any(ord(letter) <= 32 for letter in url):
            raise FetchError(f"{ascii(url)[:200]}: an address is written in ASCII without spaces")
        return parts

    def _connection(self, parts: SplitResult, end_s: float) -> _Plain:
        assert parts.hostname is not None
        is_secure = parts.scheme == "https"
        port = parts.port or (443 if is_secure else 80)
        addresses = self.resolve(parts.hostname, port)
        for address in addresses:
            self.check(address)
        if not addresses:
            raise FetchError(f"{parts.hostname[:100]}: no such host")
        kind = _Secure if is_secure else _Plain
        return kind(parts.hostname, port, addresses[0], max(0.1, end_s - time.monotonic()))

    def _ask(self, parts: SplitResult, connection: _Plain) -> http.client.HTTPResponse:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            connection.request(
                "GET", path, headers={"User-Agent": "castor", "Accept": "*/*", "Accept-Encoding": "identity"}
            )
            return connection.getresponse()
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise FetchError(f"{str(parts.hostname)[:100]}: {error or type(error).__name__}") from None

    def _content(self, url: str, response: http.client.HTTPResponse, end_s: float) -> tuple[bytes, str]:
        if response.status != 200:
            raise FetchError(f"{url[:200]}: the answer was {response.status}")
        content = bytearray()
        try:
            while piece := response.read1(PIECE):
                content += piece
                if len(content) > self.max_bytes:
                    raise FetchError(f"{url[:200]}: more than the {self.max_bytes} bytes that are allowed")
                if time.monotonic() > end_s:
                    raise FetchError(f"{url[:200]}: not done within {self.timeout_s:g} s")
        except (OSError, http.client.HTTPException) as error:
            raise FetchError(f"{url[:200]}: {error or type(error).__name__}") from None
        if time.monotonic() > end_s:  # what was cut off looks like an end
            raise FetchError(f"{url[:200]}: not done within {self.timeout_s:g} s")
        if response.length:
            raise FetchError(f"{url[:200]}: {response.length} bytes are missing at the end")
        return bytes(content), (response.getheader("content-type") or "").partition(";")[0].strip()


class _Plain(http.client.HTTPConnection):
    """A connection to one address, whatever the name would resolve to now."""

    def __init__(self, host: str, port: int, address: str, timeout_s: float) -> None:
        super().__init__(host, port, timeout=timeout_s)
        self._address = address
        self._held: socket.socket | None = None

    def connect(self) -> None:
        """To the address that was checked."""
        self.sock = self._held = socket.create_connection((self._address, self.port), self.timeout)

    def abort(self) -> None:
        """End it, whoever is waiting for it; from any thread."""
        if self._held is not None:
            with suppress(OSError):
                self._held.shutdown(socket.SHUT_RDWR)


class _Secure(_Plain):
    """The same with TLS, for the name."""

    def connect(self) -> None:
        """To the address that was checked; the certificate must be the name's."""
        super().connect()
        self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)
