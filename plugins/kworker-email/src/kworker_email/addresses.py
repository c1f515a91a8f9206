"""E-mail addresses: read strictly, and matched against who may receive. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DOMAIN = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*", re.ASCII)
_ADDRESS = re.compile(rf"({_ATOM}(?:\.{_ATOM})*)@([^@]+)", re.ASCII)
_NAMED = re.compile(r'\s*(?:"([^"\\<>]*)"|([^"\\<>,;@]*?))\s*<([^<>]*)>\s*')

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What no header may hold: line breaks of every kind above all."""


@dataclass(frozen=True, slots=True)
class Mailbox:
    """One address, and the name shown beside it ("" for none). The domain is lower-case."""

    local: str
    domain: str
    name: str = ""

    @property
    def address(self) -> str:
        """`local@domain`."""
        return f"{self.local}@{self.domain}"


def parse(text: str) -> Mailbox:
    """Read `local@domain` or `Name <local@domain>`. Raises ValueError, one line, for anything else."""
    if CONTROL.search(text):
        raise ValueError(f"{text[:80]!r} holds a control character")
    named = _NAMED.fullmatch(text)
    name, address = (named[1] or named[2] or "", named[3]) if named else ("", text)
    found = _ADDRESS.fullmatch(address)
    if found is None or len(found[1]) > 64 or not _DOMAIN.fullmatch(found[2]):
        raise ValueError(
            f"{text[:80]!r} is not one address: write local@domain or Name <local@domain>"
            " (ASCII; a domain with other letters as xn--...)"
        )
    return Mailbox(found[1], found[2].lower(), name)


class Allow:
    """Who may receive. Raises ValueError, one line, for an entry that is no `*`, domain or address."""

    def __init__(self, entries: Iterable[str]) -> None:
        self._all = False
        self._exact: set[str] = set()
        self._below: set[str] = set()
        for entry in entries:
            domain = entry.removeprefix("*.").lower()
            if entry == "*":
                self._all = True
            elif "@" in entry:
                self._exact.add(parse(entry).address.lower())
            elif not _DOMAIN.fullmatch(domain):
                raise ValueError(f"{entry[:80]!r} is not *, a domain (example.org, *.example.org) or an address")
            else:
                (self._exact if domain == entry.lower() else self._below).add(domain)

    def permits(self, mailbox: Mailbox) -> bool:
        """Whether this address may receive."""
        if self._all or mailbox.domain in self._exact or mailbox.address.lower() in self._exact:
            return True
        labels = mailbox.domain.split(".")
        return any(".".join(labels[index:]) in self._below for index in range(1, len(labels)))
