"""URLs are read strictly and matched by their parts, never as text."""

from __future__ import annotations

import pytest

from kworker_http.urls import Prefix, parse


@pytest.mark.parametrize(
    "text",
    [
        "https://user:pw@hooks.example.org/",
        "https://hooks.example.org@evil.com/",
        "https://hooks.example.org\\@evil.com/",
        "https://hooks.example.org#@evil.com/",
        "https://hooks.example.org/a#b",
        "https://hooks.example.org/a b",
        "https://hooks.example.org/a\r\nX: y",
        "https://hooks.example.org/a\n",
        "https://hooks.éxample.org/",
        "https://hooks.example.org:0/",
        "https://hooks.example.org:65536/",
        "https://hooks.example.org:/",
        "https://hooks%2eexample.org/",
        "https://[::1/",
        "https://[::1%25eth0]/",
        "https://[hooks.example.org]/",
        "https://hooks..example.org/",
        "https://-hooks.example.org/",
        f"https://{'a' * 64}.org/",
        "https://*/",
        "https://*.example.org/",
        "https:///hooks",
        "https:hooks.example.org",
        "//hooks.example.org/",
        "/hooks",
        "ftp://hooks.example.org/",
        "file:///etc/passwd",
        "gopher://hooks.example.org/",
        "https://hooks.example.org/a/../b",
        "https://hooks.example.org/a/%2e%2E/b",
        "https://hooks.example.org/a/..%2fb",
        "https://hooks.example.org/a/..%5cb",
        "https://hooks.example.org/a/..;x/b",
        "https://hooks.example.org/./b",
        "",
    ],
)
def test_refuses_what_is_not_a_plain_url(text: str) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        parse(text)
    assert "evil" not in str(error.value)


def test_reads_the_parts() -> None:
    url = parse("HTTPS://Hooks.Example.ORG.:8443/In%20box/?token=s3cret")
    assert (url.scheme, url.host, url.port, url.target) == (
        "https",
        "hooks.example.org",
        8443,
        "/In%20box/?token=s3cret",
    )
    assert url.origin == "https://hooks.example.org:8443"
    assert parse("http://[0:0::1]?x").origin == "http://[::1]"
    assert parse("http://[0:0::1]?x").target == "/?x"


@pytest.mark.parametrize(
    ("prefix", "url", "covered"),
    [
        ("https://hooks.example.org", "https://hooks.example.org/any", True),
        ("https://hooks.example.org/", "https://HOOKS.example.org:443", True),
        ("https://hooks.example.org/", "https://hooks.example.org.:443/?a=/b", True),
        ("https://hooks.example.org", "https://hooks.example.org.evil.com/", False),
        ("https://hooks.example.org", "https://hooks.example.orgevil.com/", False),
        ("https://hooks.example.org", "https://a.hooks.example.org/", False),
        ("https://hooks.example.org", "http://hooks.example.org/", False),
        ("https://hooks.example.org", "https://hooks.example.org:8443/", False),
        ("https://hooks.example.org:8443", "https://hooks.example.org:8443/x", True),
        ("https://hooks.example.org/in", "https://hooks.example.org/in", True),
        ("https://hooks.example.org/in/", "https://hooks.example.org/in", True),
        ("https://hooks.example.org/in/", "https://hooks.example.org/in/box?x=1", True),
        ("https://hooks.example.org/in", "https://hooks.example.org/in?x=/in/", True),
        ("https://hooks.example.org/in", "https://hooks.example.org/inbox", False),
        ("https://hooks.example.org/in", "https://hooks.example.org/out?x=/in", False),
        ("https://hooks.example.org/in", "https://hooks.example.org//in", False),
        ("https://hooks.example.org/in", "https://hooks.example.org/IN", False),
        ("https://hooks.example.org/in", "https://hooks.example.org/%69n", False),
        ("https://*/", "https://any.where/x", True),
        ("https://*/", "http://any.where/x", False),
        ("https://*.example.org/in", "https://a.b.example.org/in/x", True),
        ("https://*.example.org/", "https://example.org/", False),
        ("https://*.example.org/", "https://evilexample.org/", False),
        ("http://127.0.0.1", "http://2130706433/", False),
        ("http://[::1]", "http://[0:0:0:0:0:0:0:1]/", True),
    ],
)
def test_a_prefix_covers_by_parts(prefix: str, url: str, covered: bool) -> None:
    assert Prefix.parse(prefix).covers(parse(url)) is covered


@pytest.mark.parametrize("text", ["hooks.example.org", "https://a.*.org/", "https://*x.org/", "https://h/?a=1"])
def test_refuses_what_is_not_a_prefix(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Prefix.parse(text)


def test_the_more_specific_prefix_weighs_more() -> None:
    rising = ["https://*/", "https://*.org/", "https://*.example.org/", "https://a.org/", "https://a.org/in"]
    weights = [Prefix.parse(text).weight for text in rising]
    assert weights == sorted(weights)
    assert len(set(weights)) == len(weights)
