"""The final dump holds the site's rows and files, can be restored, and never passes the site's own rights."""

import os
import socket
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from tenantry.control.data import databases
from tenantry.control.data.directories import make_site_directories, site_owner
from tenantry.control.data.dumps import DumpFailed, DumpRequest, dump_site
from tenantry.control.data.server import TenantServer
from tenantry.control.data.site_roles import SiteRoles, administrating
from tenantry.control.data.writing import close_database

AT = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)


@pytest.fixture
def request_(tenant_server: TenantServer, home: Path, uid_base: int | None) -> Iterator[DumpRequest]:
    template = "tpl_dumped_1"
    databases.create_template(tenant_server, template)
    databases.seal_template(tenant_server, template)
    databases.provision_site_database(tenant_server, 5, "five", template)
    with psycopg.connect(tenant_server.access("site_5", "five").url, autocommit=True) as connection:
        connection.execute("CREATE TABLE note AS SELECT 'remember' AS text")
    owner = site_owner(uid_base, 5)
    make_site_directories(home, "blog", owner)
    media = home / "data/blog/media"
    (media / "a.txt").write_text("upload")
    if owner.uid is not None:
        os.chown(media / "a.txt", owner.uid, owner.uid)
    (media / "trap").symlink_to("/etc/passwd")
    yield DumpRequest(home, "blog", 5, owner, AT)
    databases.drop_site_database(tenant_server, 5)
    databases.drop_template(tenant_server, template)


def test_rows_and_files_are_in_the_dump(tenant_server: TenantServer, request_: DumpRequest) -> None:
    path = dump_site(tenant_server, request_)
    assert path == request_.home / "backups/blog-site_5-20260504T030201Z.dump"
    media = path.with_suffix(".media.tar")
    for file in (path, media):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    binaries = tenant_server.address.binaries
    assert binaries is not None
    text = subprocess.run(
        [binaries / "pg_restore", "--file=-", path], capture_output=True, text=True, check=True, timeout=30
    )
    assert "remember" in text.stdout
    with tarfile.open(media) as archive:
        names = {member.name: member for member in archive.getmembers()}
        content = archive.extractfile("media/a.txt")
        assert content is not None
        assert content.read() == b"upload"
    assert names["media/trap"].issym()
    databases.drop_site_database(tenant_server, 5)


def test_a_repeated_job_finds_the_dump_made_before_the_drop(tenant_server: TenantServer, request_: DumpRequest) -> None:
    first = dump_site(tenant_server, request_)
    databases.drop_site_database(tenant_server, 5)
    later = DumpRequest(request_.home, "blog", 5, request_.owner, datetime(2027, 1, 1, tzinfo=UTC))
    assert dump_site(tenant_server, later) == first
    assert dump_site(tenant_server, DumpRequest(request_.home, "blo", 5, request_.owner, AT)) is None


def test_a_site_that_never_had_a_database_is_not_given_its_namesakes_dump(
    tenant_server: TenantServer, request_: DumpRequest
) -> None:
    assert dump_site(tenant_server, request_) is not None
    (request_.home / "backups/blog-20260504T030201Z.dump").write_text("of the time before numbers stood in the names")
    for number in (6, 55):
        assert dump_site(tenant_server, replace(request_, number=number)) is None


def test_a_failed_dump_leaves_no_file(tenant_server: TenantServer, request_: DumpRequest) -> None:
    with administrating(tenant_server, SiteRoles(5)), tenant_server.inside("site_5") as connection:
        # What a damaged database may have: an object its own role cannot read.
        connection.execute("ALTER TABLE public.note OWNER TO CURRENT_USER")
    with pytest.raises(DumpFailed, match=r"pg_dump failed: .*permission denied"):
        dump_site(tenant_server, request_)
    assert [path for path in (request_.home / "backups").iterdir() if path.name.endswith((".dump", ".partial"))] == []
    databases.drop_site_database(tenant_server, 5)


def test_a_site_cannot_keep_its_dump_from_being_made(tenant_server: TenantServer, request_: DumpRequest) -> None:
    with psycopg.connect(tenant_server.access("site_5", "five").url, autocommit=True) as hostile:
        hostile.execute("ALTER DATABASE site_5 CONNECTION LIMIT 0")
        hostile.execute("ALTER DATABASE site_5 SET default_transaction_isolation = 'serializable'")
        hostile.execute("ALTER ROLE site_5 SET role = 'none'")
    assert dump_site(tenant_server, request_) is not None


def test_a_read_only_site_is_dumped_whole(tenant_server: TenantServer, request_: DumpRequest) -> None:
    with psycopg.connect(tenant_server.access("site_5", "five").url, autocommit=True) as connection:
        connection.execute("SELECT lo_from_bytea(0, 'large')")
        connection.execute("CREATE TABLE hidden (i int); ALTER TABLE hidden ENABLE ROW LEVEL SECURITY")
        connection.execute("CREATE FUNCTION f() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'")
    close_database(tenant_server, 5)
    path = dump_site(tenant_server, request_)
    binaries = tenant_server.address.binaries
    assert path is not None
    assert binaries is not None
    text = subprocess.run(
        [binaries / "pg_restore", "--file=-", path], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    assert "remember" in text
    assert "SECURITY DEFINER" in text


def test_what_a_site_has_closed_to_itself_is_in_the_archive(tenant_server: TenantServer, request_: DumpRequest) -> None:
    closed = request_.home / "data/blog/media/closed"
    closed.mkdir()
    (closed / "b.txt").write_text("behind it")
    for path in (closed / "b.txt", closed):
        if request_.owner.uid is not None:
            os.chown(path, request_.owner.uid, request_.owner.uid)
        path.chmod(0o000)
    path = dump_site(tenant_server, request_)
    assert path is not None
    with tarfile.open(path.with_suffix(".media.tar")) as archive:
        content = archive.extractfile("media/closed/b.txt")
        assert content is not None
        assert content.read() == b"behind it"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files that a site cannot read")
def test_a_file_that_cannot_be_read_is_named_and_the_way_on_with_it(
    tenant_server: TenantServer, request_: DumpRequest
) -> None:
    media = request_.home / "data/blog/media"
    with socket.socket(socket.AF_UNIX) as ignored:
        ignored.bind(str(media / "0.sock"))
    (media / "roots").write_text("x")
    (media / "roots").chmod(0o600)
    with pytest.raises(DumpFailed, match=r"media/roots: Cannot open: Permission denied .*site delete blog --no-dump"):
        dump_site(tenant_server, request_)
    assert list((request_.home / "backups").iterdir()) == []


def test_a_file_that_takes_no_room_takes_none_in_the_archive(
    tenant_server: TenantServer, request_: DumpRequest, tmp_path: Path
) -> None:
    with (request_.home / "data/blog/media/huge").open("wb") as huge:
        huge.truncate(4 << 30)
        huge.seek(3 << 30)
        huge.write(b"an island")
    (request_.home / "data/blog/media/huge").chmod(0o644)
    path = dump_site(tenant_server, request_)
    assert path is not None
    archive = path.with_suffix(".media.tar")
    assert archive.stat().st_size < 1 << 20
    restored = ["tar", "--extract", "--file=-", "--strip-components=1", "--no-overwrite-dir"]  # as the docs say
    with archive.open("rb") as content:
        subprocess.run(restored, cwd=tmp_path, stdin=content, check=True, timeout=60)
    found = tmp_path / "huge"
    assert found.stat().st_size == 4 << 30
    assert found.stat().st_blocks * 512 < 1 << 20
    with found.open("rb") as huge:
        huge.seek(3 << 30)
        assert huge.read(9) == b"an island"


def test_a_failed_dump_leaves_no_archive_either(
    tenant_server: TenantServer, request_: DumpRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "pg_dump").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "pg_dump").chmod(0o755)
    monkeypatch.setattr(tenant_server, "address", replace(tenant_server.address, binaries=tmp_path))
    with pytest.raises(DumpFailed):
        dump_site(tenant_server, request_)
    assert list((request_.home / "backups").iterdir()) == []


@pytest.fixture
def small_disk(request_: DumpRequest) -> Iterator[Path]:
    place = request_.home / "backups"
    place.mkdir(mode=0o700)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(place)], check=False, timeout=10)
    if os.geteuid() != 0 or mounted.returncode:
        pytest.skip("only root can mount a small disk, and not everywhere")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True, timeout=10)


@pytest.mark.parametrize("large", ["media", "database"])
def test_a_dump_never_fills_the_disk(
    tenant_server: TenantServer, request_: DumpRequest, small_disk: Path, large: str
) -> None:
    if large == "media":
        (request_.home / "data/blog/media/a.txt").write_bytes(os.urandom(12 << 20))
    else:
        with psycopg.connect(tenant_server.access("site_5", "five").url, autocommit=True) as connection:
            connection.execute(
                "CREATE TABLE big AS SELECT string_agg(sha512(n::text::bytea), '') FROM generate_series(1, 200000) n"
            )
    with pytest.raises(DumpFailed, match=r"more room than the disk with the backups can spare, 3 MB .*--no-dump"):
        dump_site(tenant_server, request_)
    assert list(small_disk.iterdir()) == []
