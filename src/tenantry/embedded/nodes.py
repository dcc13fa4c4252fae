"""A home that joined a platform: what it was told (`secrets/membership.json`), the agent's file, and its way up.

1. the home: layout, the authority's certificate, agent.json, nginx's and the emperor's files
2. supervisord
3. the database lets this node in           awaited after a join; later a platform that is away stops nothing
4. [control], standby, nginx, the emperor, the agent
5. every site that the platform wants here  served, or named

A platform that is away does not keep a node from starting: it serves what it last knew.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import httpx
import psycopg
from psycopg.conninfo import make_conninfo

from tenantry.embedded.components import (
    RENEWED,
    code_of,
    control_program,
    probe_emperor,
    probe_nginx,
    probe_standby,
    servers_of,
    serving_programs,
)
from tenantry.embedded.config import Config, save_config
from tenantry.embedded.credentials import LOCAL_HOSTS, NGINX_GROUP
from tenantry.embedded.errors import HomeUnusable, JoinFailed
from tenantry.embedded.files import read_json, write_file, write_json
from tenantry.embedded.home import Home, make_node_layout
from tenantry.embedded.network import listening_sockets
from tenantry.embedded.progress import Step
from tenantry.embedded.starting import Start
from tenantry.embedded.supervision import Program, State
from tenantry.spec.users import control_uid

LOGIN_LIMIT = timedelta(seconds=30)
# As long as sites keep appearing they are waited for. Before the first, releases may have to be fetched and unpacked,
# unless the platform is away; then sites whose page needs their database do not appear either.
_FIRST_SITE_LIMIT = timedelta(seconds=60)
_NEXT_SITE_LIMIT = timedelta(seconds=15)
_SITES_LIMIT = timedelta(minutes=30)
_CONNECT_SECONDS = 3
_SHOWN_SLUGS = 5


@dataclass(frozen=True, slots=True)
class Membership:
    """What the platform told this node when it joined. `ca` is the authority's certificate (PEM), pinned by the token.

    `answer` is the platform's whole answer: passwords and keys, in one file that only the home's owner reads.
    """

    url: str
    ca: str
    answer: dict[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        return str(self.answer["node"])

    @property
    def uid_base(self) -> int | None:
        base = self.answer.get("uid_base")
        return None if base is None else int(base)

    @property
    def control(self) -> dict[str, Any] | None:
        """Return the secrets of a control process, None where the token did not allow one."""
        control = self.answer.get("control")
        return control if isinstance(control, dict) else None

    def conninfo(self, home: Home, **others: Any) -> str:
        """Return how this node's role reaches the platform's database, the server's certificate checked."""
        return make_conninfo(str(self.answer["agent"]["dsn"]), sslrootcert=str(home.authority), **others)


def save_membership(home: Home, membership: Membership) -> None:
    """Keep what the platform told. From here on the home is a node, whatever happens next."""
    document = {"url": membership.url, "ca": membership.ca, "answer": membership.answer}
    write_json(_path(home), document, 0o600)


def load_membership(home: Home) -> Membership | None:
    """Return what the platform told, None when this home joined none; `HomeUnusable` when the file is damaged."""
    document = read_json(_path(home))
    if document is None:
        if _path(home).exists():
            raise HomeUnusable(f"{_path(home)} is damaged. Restore it from a copy, or remove the node and join again.")
        return None
    return parse_membership(str(document.get("url")), str(document.get("ca")), document.get("answer"))


def forget_membership(home: Home) -> None:
    """The platform does not know this node any more."""
    _path(home).unlink(missing_ok=True)


def parse_membership(url: str, ca: str, answer: Any) -> Membership:
    """Return the answer to a join; `JoinFailed` when something is missing in it."""
    try:
        kept = {**answer, "agent": {key: str(answer["agent"][key]) for key in ("dsn", "node_key", "node_token")}}
        for server in ("tenant_database", "redis"):
            kept[server] = _server(answer[server])
        kept["node"] = _text(answer["node"])
    except (KeyError, TypeError, ValueError) as error:
        raise JoinFailed(
            f"{url} accepted the join, but its answer lacks something ({error!r}): is the platform of another release?"
        ) from error
    return Membership(url, ca, kept)


def agent_document(home: Home, config: Config, membership: Membership) -> dict[str, Any]:
    """Return what the agent of a joined node reads."""
    answer, ca = membership.answer, str(home.authority)
    return {
        "home": str(home.root),
        "node": config.node,
        "dsn": membership.conninfo(home),
        "platform_key": answer["agent"]["node_key"],
        "node_token": answer["agent"]["node_token"],
        "control_url": answer.get("control_url") or membership.url,
        "control_ca": ca,
        "artifact_directory": None,
        "bind": config.bind,
        "http_port": config.http_port,
        "uid_base": config.uid_base,
        "nginx_group": NGINX_GROUP if config.uid_base is not None else None,
        "tenant_database": {**_server(answer["tenant_database"]), "ca": ca},
        "redis": {**_server(answer["redis"]), "ca": ca},
    }


def control_document(home: Home, config: Config, membership: Membership) -> dict[str, Any]:
    """Return what a control process on a node reads: the platform's secrets and servers, this machine's places."""
    answer, control = membership.answer, membership.control or {}
    place = answer["tenant_database"]
    return {
        "home": str(home.root),
        "database": {**place, **control["database"]},
        "platform_key": control["platform_key"],
        "secret_key": control["secret_key"],
        "allowed_hosts": [*LOCAL_HOSTS],
        "control_url": config.control_url,
        "http_port": config.http_port,
        "uid_base": config.uid_base,
        "tenant_database": place,
        "artifacts": control.get("artifacts") or {},
        "cluster": {
            "address": place["host"],
            "postgres_port": place["port"],
            "redis_port": answer["redis"]["port"],
            "ca": membership.ca,
            "gateway_url": answer.get("control_url") or membership.url,
        },
    }


class NodeStart(Start):
    """One way up of a node. With `joining` the database must let it in; otherwise it may be away."""

    joining = False

    def run(self, *, demo: bool) -> list[str]:
        """Do the steps. What does not serve is told in the table, not raised: the agent keeps trying."""
        self._view.add("database", *servers_of(self._config), "sites")
        self._prepare()
        fresh = self._supervise(self._programs())
        away = self._wait_for_login()
        if self._code and self._applied.get("code") != self._code:
            if not fresh:
                self._end(code_of(self._config), "the code changed")
                self._renew(RENEWED)
            self._note_applied("code", self._code)
        elif not fresh:
            self._renew_nginx()
        self._bring(servers_of(self._config), partial(self._missing, away is not None))
        self._wait_for_sites(away)
        return []

    @cached_property
    def _membership(self) -> Membership:
        membership = load_membership(self._home)
        if membership is None:
            raise HomeUnusable(
                f"{self._home.root} is a node's home, but what the platform told it is gone "
                f"({_path(self._home)}). Remove the node on the platform and join again."
            )
        return membership

    def _prepare(self) -> None:
        home, config = self._home, self._config
        make_node_layout(home, config.uid_base)
        save_config(home, config)
        write_file(home.authority, self._membership.ca)
        write_json(home.secrets / "agent.json", agent_document(home, config, self._membership), 0o600)
        if config.with_control and self._membership.control is not None:
            owner = None if config.uid_base is None else control_uid(config.uid_base)
            document = control_document(home, config, self._membership)
            write_json(home.secrets / "control.json", document, 0o600, owner)
        else:
            (home.secrets / "control.json").unlink(missing_ok=True)
        self._prepare_node()

    def _programs(self) -> Sequence[Program]:
        home, config = self._home, self._config
        # libpq reads them: control's own connections are checked as the agent's are.
        trust = {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": str(home.authority)}
        control = [control_program(home, config, "control", "127.0.0.1", environment=trust)]
        return [*(control if config.with_control else []), *serving_programs(home, config)]

    def _wait_for_login(self) -> str | None:
        """Wait until the database lets this node in; return why it does not (only a join insists)."""
        self._view.show("database", Step.WORKING, "logging in")
        refusal: str | None = None
        for _ in self._interruption.poll(LOGIN_LIMIT if self.joining else timedelta(seconds=1), every_seconds=0.25):
            refusal = login_refusal(self._home, self._membership)
            if refusal is None:
                self._view.show("database", Step.READY)
                return None
            self._view.show("database", Step.WORKING, refusal)
        if self.joining:
            self._view.show("database", Step.FAILED, str(refusal))
            raise JoinFailed(
                f"The platform accepted this node, but its database does not let it in: {refusal}. Check that this "
                f"machine reaches {self._address()}. Then go on with: {self._home.command} up --home {self._home.root}"
            )
        self._view.show("database", Step.FAILED, f"away ({refusal}); sites are served as last known")
        return refusal

    def _address(self) -> str:
        server = self._membership.answer["tenant_database"]
        return f"{server['host']}:{server['port']}"

    def _missing(self, away: bool, name: str, state: State, since: float) -> str | None:
        if name == "nginx":
            return probe_nginx(self._home, self._config, state)
        if name == "standby":
            return probe_standby(self._home, state)
        if name == "emperor":
            return probe_emperor(self._home, state)
        if state.name != "RUNNING":
            return "starting"
        # Without the database control answers, and says that it is not ready.
        if name == "control" and not away:
            return _probe_control(self._config)
        return None

    def _wait_for_sites(self, away: str | None) -> None:
        """Wait until every wanted site is served, or nothing new was for a while; tell which are missing."""
        self._view.show("sites", Step.WORKING, "asking the platform")
        counts, moved = (-1, -1), time.monotonic()
        for _ in self._interruption.poll(_SITES_LIMIT, every_seconds=0.2):
            known = read_known(self._home)
            wanted, missing = count_sites(self._home)
            if (wanted, len(missing)) != counts:
                counts, moved = (wanted, len(missing)), time.monotonic()
            if known is not None and (away or self._is_current(known)) and not missing:
                self._view.show("sites", Step.READY, f"{wanted} serving")
                return
            patience = _NEXT_SITE_LIMIT if away or len(missing) < wanted else _FIRST_SITE_LIMIT
            if time.monotonic() - moved > patience.total_seconds() or (away and known is None):
                break
            self._view.show("sites", Step.WORKING, f"{wanted - len(missing)} of {wanted} serving")
        shown = ", ".join(missing[:_SHOWN_SLUGS]) + (", …" if len(missing) > _SHOWN_SLUGS else "")
        text = f"not yet: {shown}" if missing else "nothing is known yet: the platform was not reached"
        self._view.show("sites", Step.FAILED, f"{text}; see logs/agent.log")

    def _is_current(self, known: tuple[str, int]) -> bool:
        """Whether the agent has read the platform's state as it is now."""
        try:
            with psycopg.connect(self._membership.conninfo(self._home), **_CONNECT) as connection:
                row = connection.execute("SELECT agent_v1.head()").fetchone()
        except psycopg.Error:
            return True  # away since a moment ago: what is known is all there is
        head = row[0] if row else {}
        return known[0] == str(head["epoch"]) and known[1] >= int(head["revision"])


_CONNECT: dict[str, Any] = {"autocommit": True, "connect_timeout": _CONNECT_SECONDS, "application_name": "tenantry-up"}


def login_refusal(home: Home, membership: Membership) -> str | None:
    """Return None when the platform's database lets this node in, else why not, in one line."""
    try:
        with psycopg.connect(membership.conninfo(home), **_CONNECT) as connection:
            connection.execute("SELECT agent_v1.head()")
    except psycopg.Error as error:
        # "connection failed: connection to server at …, port 5432 failed: Connection refused", then advice.
        return (str(error).strip() or type(error).__name__).splitlines()[0].split("failed: ")[-1].strip()
    return None


def read_known(home: Home) -> tuple[str, int] | None:
    """Return the epoch and revision that the agent remembers, None when it knows nothing yet."""
    head = read_json(home.root / "state" / "head.json") or {}
    try:
        return str(head["epoch"]), int(head["revision"])
    except (KeyError, TypeError, ValueError):
        return None


def count_sites(home: Home) -> tuple[int, list[str]]:
    """Return how many sites this node is to serve, and the slugs of those whose visitors would meet nobody."""
    try:
        wanted = sorted(path.stem for path in (home.root / "state" / "sites").glob("*.json"))
    except OSError:
        wanted = []
    listening = listening_sockets()
    return len(wanted), [slug for slug in wanted if not _is_served(home, slug, listening)]


def _is_served(home: Home, slug: str, listening: set[str]) -> bool:
    """Whether a site's visitors are led to a process, or wake the generation that is wanted here: then it sleeps.

    That of a home which joined anew may be one of before, with passwords that do not open anything any more.
    """
    directory = home.run / "sites" / slug
    link = directory / ("app.http" if (directory / "engine.http").is_file() else "app.sock")
    try:
        target = link.readlink()
        if target.parts[0] != "..":
            return str(directory / target) in listening
        document = read_json(home.root / "state" / "sites" / f"{slug}.json") or {}
        generation = int(document["generation"]) + int(document.get("shift", 0))
        parked = directory / f"vassal.{generation:d}.ini"
        return str((directory / "serving").readlink()) == f"{generation:d}.sock" and parked.exists()
    except (OSError, KeyError, ValueError, TypeError):
        return False


def joined_config(config: Config, membership: Membership, uid_base: int | None) -> Config:
    """Return the configuration of a home that has just joined."""
    with_control = config.with_control and membership.control is not None
    return replace(config, node=membership.name, uid_base=uid_base, with_control=with_control)


def _probe_control(config: Config) -> str | None:
    try:
        answer = httpx.get(f"{config.control_url}/readyz", timeout=_CONNECT_SECONDS, trust_env=False)
    except httpx.HTTPError as error:
        return f"/readyz: {error}"
    return None if answer.status_code == 200 else f"/readyz answers {answer.status_code}: {answer.text[:200]}"


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is no text")
    return value


def _server(document: dict[str, Any]) -> dict[str, Any]:
    return {"host": str(document["host"]), "port": int(document["port"])}


def _path(home: Home) -> Path:
    return home.secrets / "membership.json"
