"""Join tokens, and who is taken for the platform."""

import ssl
from pathlib import Path

import pytest

from tenantry.embedded.errors import JoinFailed
from tenantry.embedded.invitation import Invitation, fingerprint, parse_invitation, parse_token, parse_url, pin_ca
from tests.embedded.fake_platform import FakePlatform, make_authority

SECRET = "tnj_0123456789abcdef"


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://10.0.0.1:8081", "https://10.0.0.1:8081"),
        ("https://10.0.0.1:8081/", "https://10.0.0.1:8081"),
        ("https://platform.example", "https://platform.example"),
        ("https://[::1]:8081", "https://[::1]:8081"),
    ],
)
def test_a_platforms_address(text: str, url: str) -> None:
    assert parse_url(text) == url


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("http://10.0.0.1:8081", "not encrypted"),
        ("10.0.0.1:8081", "no address"),
        ("https://10.0.0.1:99999", "no address"),
        ("https://", "no address"),
        ("ftp://10.0.0.1", "not the platform's address"),
        ("https://user:secret@10.0.0.1", "not the platform's address"),
        ("https://10.0.0.1/api/v1", "not the platform's address"),
    ],
)
def test_an_address_that_is_none(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_url(text)


def test_a_token_has_a_secret_and_a_fingerprint() -> None:
    digits = "0123456789abcdef" * 2
    assert parse_token(f"{SECRET}.{digits}") == (SECRET, digits)
    assert "0123" not in repr(parse_invitation("https://10.0.0.1", f"{SECRET}.{'a' * 32}"))


@pytest.mark.parametrize("text", ["", SECRET, f"{SECRET}.abc", f"tnt_0123456789.{'a' * 32}", f"{SECRET}.{'a' * 33}"])
def test_what_is_no_token_is_not_shown_again(text: str) -> None:
    with pytest.raises(ValueError, match="not a join token") as caught:
        parse_token(text)
    assert not text or text not in str(caught.value)


def test_the_authority_that_the_token_names_is_pinned(place: Path) -> None:
    with FakePlatform(place) as platform:
        invitation = Invitation(platform.url, platform.fingerprint, SECRET)
        assert pin_ca(invitation) == platform.ca_text


def test_another_authority_is_refused_and_nothing_is_said_to_it(place: Path) -> None:
    _, mine = make_authority("mine")
    with FakePlatform(place) as platform:
        wanted = fingerprint(ssl.PEM_cert_to_DER_cert(mine))
        with pytest.raises(JoinFailed, match="not the platform that made this token") as caught:
            pin_ca(Invitation(platform.url, wanted, SECRET))
        assert "was not sent" in str(caught.value)
        assert platform.requests == []


def test_nobody_there(place: Path) -> None:
    with FakePlatform(place) as platform:
        url = platform.url
    with pytest.raises(JoinFailed, match="cannot be reached: Connection refused"):
        pin_ca(Invitation(url, "a" * 32, SECRET))


def test_a_server_without_tls(place: Path) -> None:
    with FakePlatform(place, tls=False) as platform, pytest.raises(JoinFailed, match="does not speak TLS"):
        pin_ca(Invitation(platform.url, "a" * 32, SECRET))
