"""Where a webhook may go, and how everything else is refused without a word of what may be secret."""

from __future__ import annotations

import pytest

from cluster.errors import ConfigError
from serve.watch.address import allowed, is_public, resolved

HOSTS, PRIVATE = ["hooks.example.com", "hooks.example.com:8443"], ["127.0.0.1:9000", "[::1]:9000"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        pytest.param("https://hooks.example.com/a/secret?x=1", "https://hooks.example.com", id="listed"),
        pytest.param("https://HOOKS.example.com./a", "https://hooks.example.com", id="case and a dot"),
        pytest.param("https://hooks.example.com:8443/a", "https://hooks.example.com:8443", id="listed port"),
        pytest.param("http://127.0.0.1:9000/a", "http://127.0.0.1:9000", id="listed as private"),
        pytest.param("http://[::1]:9000", "http://[::1]:9000", id="IPv6"),
    ],
)
def test_what_the_experiment_lists_is_allowed(url: str, shown: str) -> None:
    target = allowed(url, HOSTS, PRIVATE)

    assert str(target) == shown
    assert target.path.startswith("/")


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        pytest.param("https://evil.example.com/secret", "not allowed", id="another host"),
        pytest.param("https://hooks.example.com.evil.com/secret", "not allowed", id="a name that begins alike"),
        pytest.param("https://hooks.example.com:444/secret", "not allowed", id="another port"),
        pytest.param("http://hooks.example.com:443/secret", "not allowed|not encrypted", id="no TLS"),
        pytest.param("http://127.0.0.1:9001/secret", "not allowed", id="another private port"),
        pytest.param("http://2130706433:9000/secret", "not allowed", id="an address as one number"),
        pytest.param("https://user:secret@hooks.example.com/a", "user or a password", id="password"),
        pytest.param("https://hooks.example.com@evil.com/secret", "user or a password", id="a host as user"),
        pytest.param("https://hooks.example.com/secret\r\nX: y", "characters|not allowed|no address", id="line break"),
        pytest.param("https://hooks.example.com/s ecret", "characters", id="space"),
        pytest.param("file:///etc/secret", "no HTTPS address", id="file"),
        pytest.param("hooks.example.com/secret", "no HTTPS address", id="no scheme"),
        pytest.param("https://[secret", "no address", id="half a bracket"),
        pytest.param("https://hooks.example.com:99999/secret", "no address", id="no port"),
    ],
)
def test_everything_else_is_refused_and_its_path_not_shown(url: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as error:
        allowed(url, HOSTS, PRIVATE)

    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1", False),
        ("fc00::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("2002:7f00:1::", False),
        ("64:ff9b::7f00:1", False),
    ],
)
def test_private_addresses_in_all_their_forms(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_a_listed_name_that_leads_into_a_private_network_is_refused() -> None:
    target = allowed("https://localhost/secret", ["localhost"], [])

    with pytest.raises(ConfigError, match="private network") as error:
        resolved(target)

    assert "secret" not in str(error.value)


def test_a_name_listed_as_private_is_resolved() -> None:
    assert resolved(allowed("http://127.0.0.1:9000", [], PRIVATE)) == "127.0.0.1"
