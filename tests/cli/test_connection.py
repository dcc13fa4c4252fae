"""Where the platform is: which source wins, and what a broken one says."""

import json
from pathlib import Path

import pytest

from tenantry.cli.connection import find_connection, find_home
from tenantry.cli.errors import NotConnected


def write_client(home: Path, text: str) -> Path:
    home.mkdir(parents=True, exist_ok=True)
    (home / "client.json").write_text(text)
    return home


def good(url: str) -> str:
    return json.dumps({"url": url, "token": "tnt_file"})


def test_a_home_on_the_command_line_wins_over_the_environment(tmp_path: Path) -> None:
    home = write_client(tmp_path, good("http://127.0.0.1:8081"))
    environment = {"TENANTRY_URL": "http://elsewhere:1", "TENANTRY_TOKEN": "tnt_env"}
    assert find_connection(home, environment).url == "http://127.0.0.1:8081"
    assert find_connection(None, environment).token == "tnt_env"


def test_the_url_wins_over_the_home_of_the_environment(tmp_path: Path) -> None:
    home = write_client(tmp_path, good("http://127.0.0.1:8081"))
    environment = {"TENANTRY_HOME": str(home), "TENANTRY_URL": "http://elsewhere:1/", "TENANTRY_TOKEN": "tnt_env"}
    assert find_connection(None, environment).url == "http://elsewhere:1"
    assert find_connection(None, {"TENANTRY_HOME": str(home)}).token == "tnt_file"


def test_the_token_is_not_shown_by_accident(tmp_path: Path) -> None:
    assert "tnt_file" not in repr(find_connection(write_client(tmp_path, good("http://127.0.0.1:8081")), {}))


def test_a_relative_home_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_home(Path("here"), {}) == tmp_path / "here"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a valid client file"),
        ("[]", "not a valid client file"),
        ('{"url": "http://127.0.0.1:8081"}', "not a valid client file"),
        ('{"url": 1, "token": "x"}', "must be strings"),
        ('{"url": "ftp://127.0.0.1", "token": "x"}', "is no address"),
        ('{"url": "http://127.0.0.1:99999", "token": "x"}', "is no address"),
        ('{"url": "http://", "token": "x"}', "is no address"),
        ('{"url": "http://127.0.0.1:1", "token": ""}', "token is not usable"),
        ('{"url": "http://127.0.0.1:1", "token": "a\\r\\nX-Evil: 1"}', "token is not usable"),
    ],
)
def test_a_broken_client_file_is_one_clear_error(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(NotConnected, match=said) as raised:
        find_connection(write_client(tmp_path, text), {})
    assert str(tmp_path / "client.json") in str(raised.value)
    assert raised.value.advice


def test_bytes_that_are_no_text_are_a_broken_client_file(tmp_path: Path) -> None:
    (tmp_path / "client.json").write_bytes(b"\xff\xfe")
    with pytest.raises(NotConnected, match="not a valid client file"):
        find_connection(tmp_path, {})


def test_no_client_file_says_to_run_bin_up(tmp_path: Path) -> None:
    with pytest.raises(NotConnected, match=r"no client\.json") as raised:
        find_connection(tmp_path / "nothing", {})
    assert "bin/up" in raised.value.advice


def test_a_url_without_a_token_says_so() -> None:
    with pytest.raises(NotConnected, match="TENANTRY_TOKEN is not"):
        find_connection(None, {"TENANTRY_URL": "http://127.0.0.1:1"})
