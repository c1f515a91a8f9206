"""Nothing internal is connected to, in whatever way it is written."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from kworker_http.addresses import Guard, is_internal

INTERNAL = [
    *("127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255"),
    *("192.168.1.1", "100.64.0.1", "100.100.100.200", "169.254.169.254", "192.0.0.192", "192.0.2.1", "198.18.0.1"),
    *("198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255"),
    *("168.63.129.16", "::ffff:168.63.129.16"),
    *("::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254"),
    *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2002:a00:1::1", "2001:0:1::1"),
    *("fe80::1", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1", "100::1", "3fff::1"),
]
PUBLIC = [
    *("1.1.1.1", "93.184.215.14", "172.15.255.255", "172.32.0.1", "100.128.0.1", "223.255.255.255", "168.63.129.17"),
    *("2606:4700:4700::1111", "2a00:1450:4001::1", "::ffff:1.1.1.1", "64:ff9b::101:101", "2002:101:101::1"),
]


@pytest.mark.parametrize("address", INTERNAL)
def test_internal(address: str) -> None:
    assert is_internal(ip_address(address))
    assert not Guard(False).permits(address)
    assert Guard(True).permits(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public(address: str) -> None:
    assert not is_internal(ip_address(address))
    assert Guard(False).permits(address)
    assert Guard(["10.0.0.0/8"]).permits(address)


def test_named_networks_are_added_to_the_public_addresses() -> None:
    guard = Guard(["10.1.0.0/16", "fd00:1::/32"])
    assert guard.permits("10.1.2.3")
    assert guard.permits("::ffff:10.1.2.3")
    assert guard.permits("fd00:1::5")
    assert not guard.permits("10.2.0.1")
    assert not guard.permits("127.0.0.1")
    assert not guard.permits("fe80::1%eth0")


@pytest.mark.parametrize("network", ["10.0.0.0/33", "10.0.0.1/8", "internal"])
def test_refuses_what_is_no_network(network: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Guard([network])
