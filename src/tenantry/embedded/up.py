"""Starting: from whatever is there to a platform that serves. Safe to repeat; every step looks before it acts.

1. the home: checks, layout, configuration, secrets          an interruption leaves files that the next up uses
2. supervisord, in a session of its own                      from here on an interruption stops everything
3. the stores (PostgreSQL, Redis), roles and database        each by a real probe: SQL, PING
4. migrations, the administrator, the node's files           skipped when the code is what it was
5. control, jobs, standby, nginx, the emperor, the agent     /readyz, heartbeats, sockets that answer
6. the demo                                                  through the REST API

A home that joined another platform is a node: its way up is `nodes.NodeStart`.

Invariant: when `up` that started supervisord leaves with an error or a signal, nothing of the home runs any more.
"""

import os
from argparse import Namespace
from functools import partial

from tenantry.embedded.certificates import Certificates, keep_certificates
from tenantry.embedded.components import RENEWED, Platform, code_of, make_programs, probe, servers_of, stores_of
from tenantry.embedded.config import NODE, Config, check_ports, choose_config, load_config, save_config
from tenantry.embedded.credentials import NODE_ROLE, keep_credentials, write_reader_files
from tenantry.embedded.demo import host_demo
from tenantry.embedded.down import clear_remains, stop_platform
from tenantry.embedded.errors import EmbeddedError, HomeUnusable, Interrupted
from tenantry.embedded.home import Home, check_home, create_home, make_layout
from tenantry.embedded.lock import hold_lock
from tenantry.embedded.network import answers
from tenantry.embedded.nodes import NodeStart
from tenantry.embedded.postgres import prepare_database, prepare_postgres, reload_postgres
from tenantry.embedded.processes import find_processes, find_supervisor
from tenantry.embedded.progress import Step, View
from tenantry.embedded.redis import prepare_redis, reload_redis
from tenantry.embedded.signals import Interruption
from tenantry.embedded.starting import Start
from tenantry.embedded.status import follow, print_node_summary, print_summary
from tenantry.embedded.supervision import Supervisor


def up(options: Namespace, interruption: Interruption) -> int:
    """Bring the platform up; return the exit code. In the foreground this lasts until Ctrl-C or `tenantry down`."""
    os.umask(0o022)
    home = check_home(options.home)
    if find_supervisor(home) is None and not find_processes(home, load_config(home)):
        check_ports(choose_config(home, options))
    create_home(home)
    with View(f"Tenantry in {home.root}") as view, hold_lock(home, interruption, view.note):
        running = _running(home)
        if running is None:
            clear_remains(home, load_config(home), view)
        config = _agree(home, options, running is not None)
        kind = NodeStart if config.role == NODE else _PlatformStart
        start = kind(home, config, view, interruption, running)
        urls = run_or_stop(start, home, config, view, interruption, demo=not options.no_demo)
    if config.role == NODE:
        print_node_summary(home, config, running=running is not None, detach=options.detach)
    else:
        print_summary(home, config, urls, running=running is not None, detach=options.detach)
    if options.detach or running is not None or start.supervisor is None:
        return 0
    return follow(home, config, start.supervisor, interruption)


def run_or_stop(
    start: Start, home: Home, config: Config, view: View, interruption: Interruption, *, demo: bool = False
) -> list[str]:
    """Do a start's steps. When one fails or a signal comes, stop what this start had started, and raise."""
    running = start.supervisor is not None
    try:
        return start.run(demo=demo)
    except (EmbeddedError, Interrupted, OSError) as error:
        if not running and start.supervisor is not None:
            interruption.ignored = True
            view.note("Stopping what was started.")
            stop_platform(home, config, view, start.supervisor)
            interruption.ignored = isinstance(error, Interrupted)
        raise


def _running(home: Home) -> Supervisor | None:
    """Return the home's supervisord when it lives and answers."""
    return Supervisor(home) if find_supervisor(home) and answers(home.supervisor_socket) else None


def _agree(home: Home, options: Namespace, running: bool) -> Config:
    """Return the configuration for this up; raises when it cannot be had (ports taken, another one runs)."""
    config = choose_config(home, options)
    kept = load_config(home)
    if not running:
        check_ports(config)
    elif kept and _listening(kept) != _listening(config):
        at = f" and other nodes reach it at {kept.cluster_address}" if kept.cluster_address else ""
        raise HomeUnusable(
            f"The platform runs already, on port {kept.http_port} with its dashboard on port {kept.control_port}{at}. "
            "To change that, stop it first: tenantry down"
        )
    return config


def _listening(config: Config) -> tuple[object, ...]:
    """Return what cannot change while processes run."""
    ports = (config.http_port, config.control_port, config.postgres_port, config.redis_port)
    return (config.bind, config.cluster_address, *ports)


class _PlatformStart(Start):
    """One way up of a platform."""

    def run(self, *, demo: bool) -> list[str]:
        """Do the steps; return the demo sites' URLs."""
        self._view.add(*stores_of(self._config), "database", *servers_of(self._config))
        make_layout(self._home, self._config.uid_base)
        save_config(self._home, self._config)
        certificates = keep_certificates(self._home, self._config)
        platform = self._prepare(certificates)
        fresh = self._supervise(make_programs(platform))
        self._bring(stores_of(self._config), partial(probe, platform))
        changed = self._set_up(platform)
        if changed and not fresh:
            self._end(code_of(self._config), "the code changed")
            self._renew(RENEWED)
        elif not fresh:
            self._renew_nginx()
        if certificates and certificates.renewed and not (changed or fresh):
            self._take_over(platform, certificates)
        self._bring(servers_of(self._config), partial(probe, platform))
        urls = host_demo(platform, self._view, self._interruption, made_before=self._has("demo")) if demo else []
        if demo:
            self._note_applied("demo", "made")
        return urls

    def _prepare(self, certificates: Certificates | None) -> Platform:
        credentials = keep_credentials(self._home)
        if self.supervisor is None:
            self._view.show("postgres", Step.WORKING, "preparing")
        programs = prepare_postgres(self._home, credentials, self._interruption, self._config, certificates)
        running = self.supervisor is not None
        prepare_redis(self._home, self._config, credentials, certificates, running=running)
        write_reader_files(self._home, self._config, credentials, str(programs), certificates)
        return Platform(self._home, self._config, credentials, programs)

    def _take_over(self, platform: Platform, certificates: Certificates) -> None:
        """Let what runs use the new certificate. Connections that are open stay."""
        reload_postgres(self._home, platform.credentials)
        reload_redis(self._home, platform.credentials, certificates)
        self._end(("gateway",), "its certificate is new")

    def _set_up(self, platform: Platform) -> bool:
        """Roles, migrations, the administrator, the node's files; return whether the code is not what it was."""
        changed = not self._code or self._applied.get("code") != self._code or not self._home.client.exists()
        self._view.show("database", Step.WORKING, "roles")
        prepare_database(self._home, platform.credentials)
        if changed:
            self._view.show("database", Step.WORKING, "migrating")
            self._control("migrate", "--no-input", "--verbosity", "1")
        if changed or self._applied.get("url") != self._config.control_url:
            self._view.show("database", Step.WORKING, "administrator and node")
            self._control(
                *("setup_platform", "--node-name", self._config.node, "--node-role", NODE_ROLE),
                *("--admin-password-file", str(self._home.admin_password), "--client-file", str(self._home.client)),
                *("--node-key-file", str(self._home.secrets / "node.key")),
                *("--node-token-file", str(self._home.secrets / "node.token")),
                *("--url", self._config.control_url),
            )
        self._view.show("database", Step.WORKING, "the node's files")
        self._prepare_node()
        self._note_applied("url", self._config.control_url)
        self._note_applied("code", self._code)
        self._view.show("database", Step.READY)
        return changed

    def _control(self, *arguments: str) -> None:
        environment = {"TENANTRY_CONTROL_CONFIG": str(self._home.secrets / "control.json")}
        self._python(arguments[0], environment, "tenantry.control", *arguments)
