"""Becoming a node of a platform: checks first, one request, then the same way up as ever after.

1. this machine: the home, its ports, the disk               nothing is said to the platform before these are good
2. the platform's certificate, against the token             a stranger in between learns nothing
3. POST /nodes/join                                          the token is used up by its success, and by nothing else
4. `secrets/membership.json`, then `config.json`             from the first on, another join or up goes on from here
5. `nodes.NodeStart`                                         the database, nginx, the emperor, the agent, every site

Invariant: before 4 the home holds nothing of the platform, and after it every credential that the token paid for.
"""

import os
from argparse import Namespace
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import httpx

from tenantry.embedded.config import (
    NODE,
    Config,
    check_ports,
    choose_node_config,
    load_config,
    node_uid_base,
    save_config,
)
from tenantry.embedded.down import clear_remains
from tenantry.embedded.errors import EmbeddedError, HomeUnusable, Interrupted, JoinFailed
from tenantry.embedded.home import Home, check_home, create_home, make_node_layout
from tenantry.embedded.invitation import Invitation, parse_invitation, pin_ca, verified_context
from tenantry.embedded.lock import hold_lock
from tenantry.embedded.nodes import (
    Membership,
    NodeStart,
    joined_config,
    load_membership,
    login_refusal,
    parse_membership,
    save_membership,
)
from tenantry.embedded.processes import find_processes
from tenantry.embedded.progress import Step, View
from tenantry.embedded.signals import Interruption
from tenantry.embedded.status import follow, print_node_summary
from tenantry.embedded.up import run_or_stop

# The platform makes a role and seals every site's secrets before it answers.
_ANSWER_SECONDS = 60
_CONNECT_SECONDS = 10
# What libpq says of a role that was dropped, or whose password is another: this node was removed.
_REMOVED = ("password authentication failed", "is not permitted to log in", "no pg_hba.conf entry")


def join(options: Namespace, interruption: Interruption) -> int:
    """Make `options.home` a node of the platform at `options.url`; return the exit code. Runs until Ctrl-C, as `up`."""
    os.umask(0o022)
    invitation = parse_invitation(options.url, options.token)
    home = check_home(options.home)
    kept = _check_kept(home, invitation)
    if kept is not None and not _was_removed(home):
        print(
            f"{home.root} is the node {kept.node} of {kept.platform_url} already; the token was not used. "
            + _go_on(home)
        )
        return 0
    config = choose_node_config(home, options)
    _check_machine(home, config)
    create_home(home)
    with View(f"Joining {invitation.url} in {home.root}") as view, hold_lock(home, interruption, view.note):
        clear_remains(home, kept, view)
        config = _become_member(home, config, invitation, view, interruption)
        start = NodeStart(home, config, view, interruption, None)
        start.joining = True
        try:
            run_or_stop(start, home, config, view, interruption)
        except Interrupted:
            view.note(f"This machine is the node {config.node} all the same. {_go_on(home)}")
            raise
    print_node_summary(home, config, running=False, detach=options.detach)
    if options.control and not config.with_control:
        print("Without control: the token does not allow it. Make one with: tenantry node token --with-control")
    if options.detach or start.supervisor is None:
        return 0
    return follow(home, config, start.supervisor, interruption)


def _check_kept(home: Home, invitation: Invitation) -> Config | None:
    """Return the configuration of a home that joined before; raises when the home is something else's."""
    kept = load_config(home)
    if kept is None:
        return None
    if kept.role != NODE:
        raise HomeUnusable(
            f"{home.root} is a platform's home. A platform serves sites itself; to join another one, choose a new "
            "directory with --home. The token was not used."
        )
    membership = load_membership(home)
    if membership is not None and pin_ca(invitation) != membership.ca:
        raise HomeUnusable(
            f"{home.root} is the node {kept.node} of another platform ({kept.platform_url}). Choose a new directory "
            "with --home. The token was not used."
        )
    return kept


def _was_removed(home: Home) -> bool:
    """Whether the platform does not know this home's node any more, so that it may join anew."""
    membership = load_membership(home)
    if membership is None:
        return True
    refusal = login_refusal(home, membership) or ""
    return any(words in refusal for words in _REMOVED)


def _check_machine(home: Home, config: Config) -> None:
    """Raise what would keep a node from running here, before the token is used."""
    if not home.python.exists():
        raise HomeUnusable(
            f"{home.root} has no programs yet. Run bin/join from the checkout: it installs what a node needs."
        )
    if not find_processes(home, load_config(home)):
        check_ports(config)


def _become_member(
    home: Home, config: Config, invitation: Invitation, view: View, interruption: Interruption
) -> Config:
    """Ask the platform, unless an earlier join got its answer; write what was told; return the node's configuration."""
    view.add("platform")
    membership = None if home.config.exists() else load_membership(home)
    if membership is None:
        try:
            membership = _ask(home, config, invitation, view, interruption)
        except (EmbeddedError, Interrupted):
            view.show("platform", Step.FAILED)
            _remove_empty(home)
            raise
        save_membership(home, membership)
    config = joined_config(config, membership, node_uid_base(home, membership.uid_base))
    save_config(home, config)
    view.show("platform", Step.READY, f"joined as {config.node}")
    return config


def _ask(home: Home, config: Config, invitation: Invitation, view: View, interruption: Interruption) -> Membership:
    """Find out that it is the platform, and join it. After the request no signal is looked at before it is answered."""
    view.show("platform", Step.WORKING, "its certificate")
    ca = pin_ca(invitation)
    make_node_layout(home, None)
    interruption.check()
    view.show("platform", Step.WORKING, f"joining as {config.node}")
    membership = request_membership(invitation, ca, config.node)
    if config.with_control:
        return membership
    # A token may allow more than is wanted; the platform's secrets are not kept for nothing.
    return replace(membership, answer={**membership.answer, "control": None})


def request_membership(invitation: Invitation, ca: str, name: str) -> Membership:
    """Join, over a verified connection; `JoinFailed` says why not, and whether the token may be used up."""
    document = {"token": invitation.secret, "name": name, "version": _version()}
    try:
        answer = httpx.post(
            f"{invitation.url}/api/v1/nodes/join",
            json=document,
            verify=verified_context(ca),
            timeout=httpx.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS),
            trust_env=False,
        )
    except httpx.ConnectError as error:
        raise JoinFailed(
            f"{invitation.url} shows the platform's certificates but cannot prove that they are its own ({error}): "
            "somebody may stand between, or its address is another. The token was not sent."
        ) from error
    except httpx.HTTPError as error:
        raise JoinFailed(
            f"{invitation.url} did not answer the join ({error or type(error).__name__}). The token may be used up: "
            f"if «tenantry node list» shows {name}, remove it there (tenantry node remove {name}); then make a new "
            "token."
        ) from error
    if answer.status_code != httpx.codes.CREATED:
        raise JoinFailed(f"{invitation.url} refused the join: {_problem(answer)}")
    try:
        told = answer.json()
    except ValueError:
        told = None
    return parse_membership(invitation.url, ca, told)


def _problem(answer: httpx.Response) -> str:
    """Return what the platform said, in one line."""
    try:
        document: Any = answer.json()
        errors = [str(error.get("message")) for error in document.get("errors") or ()]
        text = " ".join(errors) or str(document.get("detail") or document["title"])
    except (ValueError, AttributeError, KeyError):
        return f"{answer.status_code} {answer.reason_phrase}. Is there a Tenantry platform?"
    return text


def _go_on(home: Home) -> str:
    return f"Start it with: {home.command} up --home {home.root}"


def _remove_empty(home: Home) -> None:
    """Remove the directories that only a node needs; programs that were installed stay for the next attempt."""
    for directory in (home.logs / "builds", home.logs, home.secrets, home.run, home.etc):
        if directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()


def _version() -> str:
    try:
        return version("tenantry")
    except PackageNotFoundError:
        return ""
