"""The cluster's certificates: made once, renewed when due, readable for those who serve with them and nobody else."""

import os
import ssl
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tenantry.embedded import certificates as module
from tenantry.embedded.certificates import Certificates, keep_certificates, make_server_certificate, pem
from tenantry.embedded.components import Platform, make_programs, servers_of
from tenantry.embedded.config import Config
from tenantry.embedded.credentials import cluster_document, keep_credentials
from tenantry.embedded.errors import HomeUnusable
from tenantry.embedded.files import write_file
from tenantry.embedded.home import Home
from tenantry.embedded.postgres import render_settings
from tenantry.embedded.redis import render_settings as render_redis

CONFIG = Config(1, "127.0.0.1", 8080, 8081, None, "node", cluster_address="10.0.0.1")


@pytest.fixture(autouse=True)
def _postgres_is_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_postgres_owner", lambda: None)


def keep(home: Home, config: Config = CONFIG) -> Certificates:
    kept = keep_certificates(home, config)
    assert kept is not None
    return kept


def server_of(kept: Certificates) -> x509.Certificate:
    return x509.load_pem_x509_certificates(kept.chain.read_bytes())[0]


def test_without_a_cluster_address_there_are_none(home: Home) -> None:
    assert keep_certificates(home, replace(CONFIG, cluster_address=None)) is None
    assert list(home.secrets.iterdir()) == []
    assert not home.authority.exists()
    assert cluster_document(CONFIG, None) is None


def test_what_was_made_is_kept(home: Home) -> None:
    first = keep(home)
    chain = first.chain.read_bytes()
    again = keep(home)
    assert (first.renewed, again.renewed) == (True, False)
    assert again.ca_text == first.ca_text == home.authority.read_text()
    assert again.chain.read_bytes() == chain


def test_keys_are_readable_for_their_owner_alone_and_load(home: Home) -> None:
    kept = keep(home)
    for key in home.secrets.iterdir():
        assert stat.S_IMODE(key.stat().st_mode) == 0o600, key
    for key in (kept.postgres_key, kept.redis_key, kept.gateway_key):
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(kept.chain, key)


def test_another_address_gets_another_certificate_of_the_same_authority(home: Home) -> None:
    first = keep(home)
    other = keep(home, replace(CONFIG, cluster_address="10.0.0.2"))
    assert other.renewed
    assert other.ca_text == first.ca_text
    names = server_of(other).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.IPAddress) == [IPv4Address("10.0.0.2")]


@pytest.mark.parametrize(("days_left", "renewed"), [(29, True), (31, False), (-1, True)])
def test_a_certificate_that_ends_soon_is_renewed(home: Home, days_left: int, renewed: bool) -> None:
    kept = keep(home)
    key, ca_key = (
        serialization.load_pem_private_key((home.secrets / name).read_bytes(), None)
        for name in ("server.key", "ca.key")
    )
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    ca = x509.load_pem_x509_certificate(kept.ca_text.encode())
    # One day is taken off at the beginning.
    then = datetime.now(UTC) - timedelta(days=module.SERVER_DAYS - 1 - days_left) + timedelta(hours=1)
    old = make_server_certificate(ca_key, ca, key, IPv4Address("10.0.0.1"), then)
    write_file(kept.chain, pem(old) + kept.ca_text)
    assert keep(home).renewed is renewed


@pytest.mark.parametrize("name", ["etc/server.pem", "secrets/server.key"])
@pytest.mark.parametrize(
    "text", [None, "", "damaged", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_damaged_certificate_is_made_anew(home: Home, name: str, text: str | None) -> None:
    first = keep(home)
    (home.root / name).unlink()
    if text is not None:
        (home.root / name).write_text(text)
    again = keep(home)
    assert again.renewed
    assert again.ca_text == first.ca_text
    assert not keep(home).renewed


def test_a_lost_authority_is_not_replaced_behind_the_nodes_backs(home: Home) -> None:
    keep(home)
    (home.secrets / "ca.key").unlink()
    with pytest.raises(HomeUnusable, match=r"ca\.key is lost.*join every node again"):
        keep(home)


def test_a_crash_after_the_authoritys_key_uses_the_key(home: Home) -> None:
    keep(home)
    key = (home.secrets / "ca.key").read_bytes()
    home.authority.unlink()
    assert keep(home).renewed is False
    assert (home.secrets / "ca.key").read_bytes() == key


def test_clocks_that_are_behind_trust_it(home: Home) -> None:
    begin = server_of(keep(home)).not_valid_before_utc
    assert datetime.now(UTC) - begin >= timedelta(hours=23)
    assert x509.load_pem_x509_certificate(home.authority.read_bytes()).not_valid_before_utc <= begin


def test_servers_listen_on_the_cluster_address_with_tls(home: Home) -> None:
    kept = keep(home)
    settings = render_settings(home, 15, CONFIG, kept)
    for line in ("listen_addresses = '10.0.0.1'", "port = 5432", "ssl = on", f"ssl_key_file = '{kept.postgres_key}'"):
        assert f"{line}\n" in settings
    lines = render_redis(home, CONFIG, kept).splitlines()
    assert {"port 0", "bind 10.0.0.1", "tls-port 6380", f"tls-key-file {kept.redis_key}"} <= set(lines)


def test_without_a_cluster_address_the_servers_stay_on_their_sockets(home: Home) -> None:
    alone = replace(CONFIG, cluster_address=None)
    assert "listen_addresses = ''\n" in render_settings(home, 15, alone, None)
    assert "tls-port" not in render_redis(home, alone, None)
    assert "gateway" not in servers_of(alone)


def test_the_gateway_is_a_control_process_with_the_certificate(home: Home) -> None:
    kept = keep(home)
    programs = {
        program.name: program
        for program in make_programs(Platform(home, CONFIG, keep_credentials(home), Path("/usr/bin")))
    }
    words = " ".join(programs["gateway"].argv)
    assert "--host 10.0.0.1 --port 8081" in words
    assert f"--ssl-certificate {kept.chain} --ssl-keyfile {kept.gateway_key}" in words
    assert programs["gateway"].environment == programs["control"].environment
    assert "--host 127.0.0.1 --port 8081" in " ".join(programs["control"].argv)


def test_what_control_is_told(home: Home) -> None:
    kept = keep(home)
    assert cluster_document(replace(CONFIG, postgres_port=5433), kept) == {
        "address": "10.0.0.1",
        "postgres_port": 5433,
        "redis_port": 6380,
        "ca": home.authority.read_text(),
        "gateway_url": "https://10.0.0.1:8081",
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to other users")
def test_each_server_owns_its_copy_of_the_key(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_postgres_owner", lambda: (65_001, 65_002))
    kept = keep(home, replace(CONFIG, uid_base=1_900_000_000))
    owners = [path.stat().st_uid for path in (kept.postgres_key, kept.redis_key, kept.gateway_key)]
    assert owners == [65_001, 1_900_000_002, 1_900_000_001]
    assert (home.secrets / "server.key").stat().st_uid == 0
