"""URLs: read once, strictly, and matched by their parts.

What is matched here is exactly what is connected to and sent: there is no second parser to disagree with.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv6Address
from urllib.parse import unquote

_URL = re.compile(
    r"(?P<scheme>https?)://(?:\[(?P<v6>[0-9a-f:.]{2,45})\]|(?P<host>[a-z0-9_*.-]{1,254}))(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[!-~]*?)?(?P<query>\?[!-~]*)?",
    re.ASCII | re.IGNORECASE,
)
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Url:
    """An absolute http(s) URL. `host` is lower-case and has no brackets; `path` starts with a slash."""

    scheme: str
    host: str
    port: int
    path: str
    query: str

    @property
    def origin(self) -> str:
        """`https://host[:port]`: all of a URL that may be shown, since a path or query can hold a secret."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == _PORTS[self.scheme] else f":{self.port}")

    @property
    def target(self) -> str:
        """What stands in the request line."""
        return self.path + self.query


def parse(text: str) -> Url:
    """Read a URL to deliver to. Raises ValueError, saying what is wrong with it but not repeating it."""
    url = _parse(text)
    if "*" in url.host:
        raise ValueError("the host holds a '*'")
    return url


def _parse(text: str) -> Url:
    match = _URL.fullmatch(text)
    if match is None or "\\" in text or "#" in text:
        raise ValueError(
            "not a plain URL: write http(s)://host[:port]/path in ASCII, with no user, password, fragment, "
            "space or backslash"
        )
    scheme = match["scheme"].lower()
    port = int(match["port"] or _PORTS[scheme])
    if not 0 < port < 65536:
        raise ValueError(f"port {port} does not exist")
    host = str(IPv6Address(match["v6"])) if match["v6"] else _name(match["host"])
    path = match["path"] or "/"
    # Servers differ in what they take for a step up (%2e%2e, ..;x): none of it may leave an allowed prefix.
    if any(part.partition(";")[0] in (".", "..") for part in re.split(r"[/\\]", unquote(path))):
        raise ValueError("the path holds a '.' or '..' segment")
    return Url(scheme, host, port, path, match["query"] or "")


def _name(host: str) -> str:
    host = host.lower().removesuffix(".")
    labels = host.split(".")
    if labels[0] == "*":
        labels = labels[1:]
    if not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("the host is not a valid name")
    return host


@dataclass(frozen=True, slots=True)
class Prefix:
    """A URL prefix of the settings: scheme and port equal, host equal or `*`, path equal or a parent folder.

    The host may be `*` (any) or `*.example.org` (any below it, but not itself).
    """

    url: Url

    @classmethod
    def parse(cls, text: str) -> Prefix:
        """Read a prefix. Raises ValueError for anything that is not one."""
        url = _parse(text)
        if url.query:
            raise ValueError("a prefix has no query")
        return cls(url)

    def covers(self, url: Url) -> bool:
        """Whether `url` lies below this prefix."""
        mine, host = self.url, self.url.host
        if (url.scheme, url.port) != (mine.scheme, mine.port):
            return False
        # host[1:] is ".example.org", or "" for "*": what every host ends with
        if not (url.host == host or (host.startswith("*") and url.host.endswith(host[1:]))):
            return False
        path = mine.path.rstrip("/")
        return url.path == path or url.path.startswith(path + "/")

    @property
    def weight(self) -> tuple[bool, int, int]:
        """Grows with how specific the prefix is."""
        return (not self.url.host.startswith("*"), len(self.url.host), len(self.url.path.rstrip("/")))
