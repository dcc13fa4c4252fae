"""What runs: the summary after an up, the table of `status`, and following a platform in the foreground."""

import json
import time
from argparse import Namespace

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tenantry.embedded.components import fetch_node, servers_of, stores_of
from tenantry.embedded.config import NODE, Config, load_config
from tenantry.embedded.down import clear_remains, stop_platform
from tenantry.embedded.errors import ComponentFailed, HomeUnusable, Interrupted
from tenantry.embedded.files import tail
from tenantry.embedded.home import Home
from tenantry.embedded.lock import hold_lock
from tenantry.embedded.network import answers
from tenantry.embedded.nodes import count_sites
from tenantry.embedded.options import default_home
from tenantry.embedded.processes import find_supervisor
from tenantry.embedded.progress import Step, View
from tenantry.embedded.signals import Interruption
from tenantry.embedded.supervision import State, Supervisor

_FOLLOW_SECONDS = 0.5
_SITES_SECONDS = 3.0
_STEPS = {"RUNNING": Step.READY, "STARTING": Step.WORKING, "STOPPING": Step.WORKING, "BACKOFF": Step.FAILED}


def print_summary(home: Home, config: Config, urls: list[str], *, running: bool, detach: bool) -> None:
    """Tell where everything is and how to log in."""
    console = Console(highlight=False)
    rows = [("Sites" if index == 0 else "", url) for index, url in enumerate(urls)]
    rows = rows or [("Sites", f"http://<hostname>:{config.http_port}/")]
    rows.append(("Dashboard", f"{config.control_url}/"))
    rows.append(("Log in", f"user admin, password: cat {home.admin_password}"))
    rows.append(("Commands", f"{home.command} --help"))
    if default_home() != home.root:
        rows.append(("", f"export TENANTRY_HOME={home.root}   so that they find this platform"))
    stop = f"{home.command} down" + ("" if default_home() == home.root else f" --home {home.root}")
    rows.append(("Stop", stop if detach or running else "Ctrl-C"))
    console.print("\nThe platform was running already.\n" if running else "\nThe platform is ready.\n")
    for label, text in rows:
        console.print(f"  {label:<10} {text}", soft_wrap=True, markup=False)
    console.print()


def print_node_summary(home: Home, config: Config, *, running: bool, detach: bool) -> None:
    """Tell what this node serves and how to stop it."""
    console = Console(highlight=False)
    export = "" if default_home() == home.root else f" --home {home.root}"
    rows = [("Node", f"{config.node} of {config.platform_url}"), ("Sites", f"http://<hostname>:{config.http_port}/")]
    if config.with_control:
        rows.append(("Dashboard", f"{config.control_url}/"))
    rows.append(("Stop", f"{home.command} down{export}" if detach or running else "Ctrl-C"))
    if detach or running:
        rows.append(("Start", f"{home.command} up --detach{export}"))
    console.print("\nThe node was running already.\n" if running else "\nThe node is ready.\n")
    for label, text in rows:
        console.print(f"  {label:<10} {text}", soft_wrap=True, markup=False)
    console.print()


def status(options: Namespace, interruption: Interruption) -> int:
    """Print each process's state; 0 when all run, 1 otherwise."""
    home = Home(options.home.expanduser().resolve())
    config = load_config(home)
    if config is None:
        raise HomeUnusable(f"There is no platform in {home.root}. Start one with bin/up.")
    states = read_states(home)
    rows = {name: states.get(name, State("STOPPED", 0, 0, "")) for name in components_of(config)}
    good = all(state.name == "RUNNING" for state in rows.values())
    if options.json:
        processes = {name: {"state": state.name.lower(), "pid": state.pid or None} for name, state in rows.items()}
        document = {"home": str(home.root), "role": config.role, "node": config.node, "platform": config.platform_url}
        print(json.dumps({**document, "running": good, "processes": processes}))
        return 0 if good else 1
    table = Table(box=None, pad_edge=False)
    for heading in ("process", "state", "pid", ""):
        table.add_column(heading)
    for name, state in rows.items():
        colour = "green" if state.name == "RUNNING" else "red"
        pid = str(state.pid) if state.pid else ""
        table.add_row(name, Text(state.name.lower(), style=colour), pid, _uptime(state.message))
    Console(highlight=False).print(table)
    return 0 if good else 1


def components_of(config: Config) -> tuple[str, ...]:
    """Return the names of a home's processes in the order of starting."""
    return (*stores_of(config), *servers_of(config))


def read_states(home: Home) -> dict[str, State]:
    """Return the processes' states; empty when nothing runs."""
    if find_supervisor(home) is None or not answers(home.supervisor_socket):
        return {}
    return Supervisor(home).states()


def follow(home: Home, config: Config, supervisor: Supervisor, interruption: Interruption) -> int:
    """Show the processes until Ctrl-C (then stop everything) or until the platform was stopped from elsewhere."""
    with View(f"Tenantry in {home.root}: Ctrl-C stops everything", events=False) as view:
        view.add(*components_of(config), "sites")
        asked = 0.0
        try:
            while supervisor.alive:
                for name, state in supervisor.states().items():
                    if state.name != "STOPPING":
                        view.show(name, _STEPS.get(state.name, Step.FAILED), _uptime(state.message))
                if time.monotonic() - asked > _SITES_SECONDS:
                    asked = time.monotonic()
                    view.show("sites", *_sites(home, config))
                interruption.sleep(_FOLLOW_SECONDS)
        except Interrupted:
            interruption.ignored = True
            view.note("Stopping.")
            with hold_lock(home, interruption, view.note):
                stop_platform(home, config, view, supervisor)
            view.note("Stopped. The data stays; bin/up brings everything back.")
            return 0
        interruption.ignored = True
        with hold_lock(home, interruption, view.note):
            if not (home.run / "supervisord.json").exists():
                view.note("Stopped from elsewhere.")
                return 0
            clear_remains(home, config, view)
        raise ComponentFailed(
            "supervisord",
            "supervisord ended unexpectedly; everything it kept was stopped. bin/up starts it again.",
            tail(home.log("supervisord")),
            str(home.log("supervisord")),
        )


def _sites(home: Home, config: Config) -> tuple[Step, str]:
    """Return how the sites are, as the node reports it; on a joined node, as its disk shows it."""
    if config.role == NODE:
        wanted, missing = count_sites(home)
        return (Step.WORKING if missing else Step.READY), f"{wanted - len(missing)} of {wanted} serving"
    node = fetch_node(home, config)
    if node is None:
        return Step.WORKING, "control does not answer"
    total, failed = int(node["sites"]), int(node["failed"])
    if failed:
        return Step.FAILED, f"{total - failed} serving, {failed} failed: tenantry site list"
    return Step.READY, f"{total} serving"


def _uptime(message: str) -> str:
    """Return supervisord's "pid 17, uptime 0:00:41" without the pid, which would make every line a new one."""
    return f"up {message.partition('uptime ')[2]}" if "uptime " in message else message
