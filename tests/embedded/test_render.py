"""The servers' configuration files, read by the servers' own parsers where they have one."""

import configparser
import os
import shlex
import stat
from pathlib import Path

import pytest
from supervisor.options import ServerOptions

from tenantry.embedded.components import Platform, make_programs
from tenantry.embedded.config import Config
from tenantry.embedded.credentials import agent_document, control_document, keep_credentials, write_reader_files
from tenantry.embedded.errors import HomeUnusable
from tenantry.embedded.files import read_json, tail, write_file
from tenantry.embedded.home import Home
from tenantry.embedded.postgres import render_settings
from tenantry.embedded.redis import render_access
from tenantry.embedded.supervision import Program, render_supervisor

CONFIG = Config(1, "127.0.0.1", 8080, 8081, None, "node")


def test_supervisord_reads_its_file(home: Home) -> None:
    programs = [
        Program("one", ["/bin/echo", "a b", "100%", "it's"], {"KEY": "50%,x"}, "QUIT", 3),
        Program("two", ["/bin/cat"], as_group=True, log="other"),
    ]
    path = home.root / "supervisord.conf"
    path.write_text(render_supervisor(home, programs))
    options = ServerOptions()
    options.realize(["-c", str(path)])
    one, two = (group.process_configs[0] for group in options.process_group_configs)
    assert shlex.split(one.command) == ["/bin/echo", "a b", "100%", "it's"]
    assert one.environment == {"KEY": "50%,x"}
    assert (one.stopsignal, one.stopwaitsecs, one.autostart, one.autorestart is not None) == (3, 3, False, True)
    assert two.stopasgroup
    assert two.stdout_logfile == str(home.logs / "other.log")


def test_the_supervisors_socket_is_for_its_owner_alone(home: Home) -> None:
    parser = configparser.RawConfigParser()
    parser.read_string(render_supervisor(home, []))
    assert parser["unix_http_server"] == {"file": str(home.run / "supervisor.sock"), "chmod": "0600"}


def test_no_secret_is_in_a_command_line_or_in_the_supervisors_file(home: Home) -> None:
    credentials = keep_credentials(home)
    text = render_supervisor(home, make_programs(Platform(home, CONFIG, credentials, Path("/usr/bin"))))
    secrets = [*credentials.passwords.values(), credentials.redis_password, credentials.platform_key]
    assert not [secret for secret in secrets if secret in text]


def test_postgres_listens_on_no_address(home: Home) -> None:
    text = render_settings(home, 15)
    assert "listen_addresses = ''\n" in text
    assert "createrole_self_grant" not in text
    assert "createrole_self_grant = 'set, inherit'\n" in render_settings(home, 16)


def test_the_access_list_keeps_the_sites_users() -> None:
    known = "user default on nopass ~* +@all\nuser admin on #old ~* +@all\nuser site_1 on #abc ~blog:* +@read\n\n"
    text = render_access(known, "new")
    lines = text.splitlines()
    assert lines[0] == "user default off resetchannels -@all"
    assert lines[1].startswith("user admin on ")
    assert lines[2:] == ["user site_1 on #abc ~blog:* +@read"]
    assert "new" not in text
    assert render_access(text, "new") == text


def test_credentials_stay(home: Home) -> None:
    first = keep_credentials(home)
    assert keep_credentials(home) == first
    assert len({*first.passwords.values(), first.redis_password, first.platform_key, first.secret_key}) == 7


def test_secrets_are_readable_for_their_owner_alone(home: Home) -> None:
    write_reader_files(home, CONFIG, keep_credentials(home), "/usr/bin")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in home.secrets.iterdir()}
    assert set(modes.values()) == {0o600}
    assert {"control.json", "jobs.json", "agent.json", "postgres.json", "admin-password", "platform.key"} <= set(modes)


def test_each_reader_logs_in_as_itself(home: Home) -> None:
    credentials = keep_credentials(home)
    control = control_document(home, CONFIG, credentials, "/x", "tenantry_control")
    agent = agent_document(home, CONFIG, credentials)
    assert control["database"]["password"] == credentials.passwords["tenantry_control"]
    assert control["tenant_database"] == {"host": str(home.root / "postgres" / "sock"), "port": 5432}
    assert "user=tenantry_node_1" in agent["dsn"]
    for other in ("tenantry_super", "tenantry_jobs", "tenantry_control"):
        assert credentials.passwords[other] not in str(agent)


def test_a_person_says_where_releases_are_kept(home: Home) -> None:
    credentials = keep_credentials(home)
    control = control_document(home, CONFIG, credentials, "/x", "tenantry_control")
    assert control["artifacts"] == {"kind": "directory", "directory": str(home.artifacts)}
    assert agent_document(home, CONFIG, credentials)["artifact_directory"] == str(home.artifacts)
    chosen = home.secrets / "artifacts.json"
    chosen.write_text('{"kind": "s3", "bucket": "releases"}')
    control = control_document(home, CONFIG, credentials, "/x", "tenantry_control")
    assert control["artifacts"] == {"kind": "s3", "bucket": "releases"}
    assert agent_document(home, CONFIG, credentials)["artifact_directory"] is None
    chosen.write_text("[not, json")
    with pytest.raises(HomeUnusable, match=r"artifacts.json: must hold one JSON object"):
        control_document(home, CONFIG, credentials, "/x", "tenantry_control")


def test_a_file_is_replaced_only_when_it_changed(home: Home) -> None:
    path = home.root / "file"
    assert write_file(path, "one") is True
    before = path.stat()
    assert write_file(path, "one") is False
    assert path.stat().st_ino == before.st_ino
    assert write_file(path, "one", 0o600) is False
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert write_file(path, "two") is True
    assert [entry.name for entry in home.root.iterdir() if "file" in entry.name] == ["file"]


def test_a_link_is_replaced_not_written_through(home: Home) -> None:
    target = home.root / "target"
    target.write_text("keep")
    link = home.root / "link"
    link.symlink_to(target)
    write_file(link, "new")
    assert (target.read_text(), link.is_symlink(), link.read_text()) == ("keep", False, "new")


@pytest.mark.parametrize("text", ["", "not json", "[1]"])
def test_what_is_no_json_object_reads_as_none(home: Home, text: str) -> None:
    (home.root / "x.json").write_text(text)
    assert read_json(home.root / "x.json") is None


def test_the_end_of_a_log(home: Home) -> None:
    log = home.root / "log"
    assert tail(log) == ""
    log.write_text("old\n" * 3)
    size = os.path.getsize(log)
    with log.open("a") as file:
        file.write("".join(f"line {number}\n" for number in range(50)))
    assert tail(log, 2) == "line 48\nline 49"
    assert "old" not in tail(log, 100, since=size)
    log.write_text("rotated\n")
    assert tail(log, since=size) == "rotated"
