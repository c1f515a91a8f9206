"""Which IP addresses a webhook may be sent to: public ones, and what the settings add."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_NAT64 = IPv6Network("64:ff9b::/96")
# What `ipaddress` counts as global in one Python version or another, and is not for us to call.
_NEVER: tuple[Network, ...] = (
    IPv4Network("168.63.129.16/32"),  # Azure's metadata and agent service, answered inside the machine
    IPv4Network("192.0.0.0/24"),  # IETF protocol assignments; Oracle's cloud keeps metadata at .192
    IPv4Network("192.88.99.0/24"),  # 6to4 relays, retired
    IPv6Network("2001::/23"),  # IETF protocol assignments, Teredo
    IPv6Network("3fff::/20"),  # documentation
    IPv6Network("5f00::/16"),  # segment routing
    IPv6Network("fec0::/10"),  # site-local, retired
)


def is_internal(address: Address) -> bool:
    """Whether `address` is anything but a public unicast one; what an IPv6 address wraps is judged instead of it."""
    address = _unwrap(address)
    if not address.is_global or address.is_multicast or address.is_reserved:
        return True
    return any(address in network for network in _NEVER)


def _unwrap(address: Address) -> Address:
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


class Guard:
    """Says of an address whether it may be connected to.

    `allow_internal`: True for every address, or the networks allowed beside the public ones.
    Raises ValueError for a network that is none.
    """

    def __init__(self, allow_internal: bool | Sequence[str]) -> None:
        self._all = allow_internal is True
        self._networks: list[Network] = [] if isinstance(allow_internal, bool) else [*map(ip_network, allow_internal)]

    def permits(self, address: str) -> bool:
        """Whether `address`, as getaddrinfo gives it, may be connected to."""
        ip = ip_address(address.partition("%")[0])
        return self._all or not is_internal(ip) or any(_unwrap(ip) in network for network in self._networks)
