"""Sites' secrets, sealed for each node with that node's own key: a node can open those of the sites it is told of.

Invariant: there is one `NodeSecret` for each ready site and each node with a key. Acts on sites run beside each other
and beside acts on nodes, so both lock the table `node_secret` until their transaction ends: what changes a site's
secrets as any writer does, after the site's row; what changes the set of nodes or a node's key against all writers,
before any node's row, and locks no site's row. Whoever comes second sees what the other committed, and neither waits in
a circle. No advisory lock: every role of this database may take one, a node's too, and keep it.
"""

from collections.abc import Iterable
from typing import Protocol

from django.db import connection

from tenantry.control.fleet.models import Node, NodeSecret
from tenantry.control.sealing import sealer
from tenantry.sealing import Sealer

_BATCH = 1_000  # rows of one statement


class SealedSite(Protocol):
    """What is needed of a site."""

    number: int
    sealed: str


def lock_nodes() -> None:
    """Keep others from changing the set of nodes and any site's secrets until the transaction ends."""
    _lock("SHARE ROW EXCLUSIVE")


def reseal_site(site: SealedSite) -> None:
    """Seal a ready site's secrets for every node, in place of what each has. The site's row must be locked."""
    _lock("ROW EXCLUSIVE")
    nodes = list(Node.objects.exclude(sealed_key="").order_by("name"))
    if nodes:
        document = sealer().unseal(site.sealed)
        _save(NodeSecret(node=node, site_number=site.number, sealed=_box(node).seal(document)) for node in nodes)


def forget_site(number: int) -> None:
    """Remove what nodes have of a site that they serve no more."""
    _lock("ROW EXCLUSIVE")
    NodeSecret.objects.filter(site_number=number).delete()


def seal_all_for(node: Node, sites: Iterable[SealedSite]) -> None:
    """Seal the secrets of `sites`, all that are ready, for a node whose key is new. `lock_nodes` came before."""
    NodeSecret.objects.filter(node=node).delete()
    platform, box = sealer(), _box(node)
    _save(
        NodeSecret(node=node, site_number=site.number, sealed=box.seal(platform.unseal(site.sealed))) for site in sites
    )


def seal_key(key: str) -> str:
    """Return a node's key as its row holds it."""
    return sealer().seal({"key": key})


def open_key(sealed_key: str) -> str:
    """Return a node's key; `SealError` when the platform's key does not open it."""
    return str(sealer().unseal(sealed_key)["key"])


def _box(node: Node) -> Sealer:
    return Sealer([open_key(node.sealed_key)])


def _save(rows: Iterable[NodeSecret]) -> None:
    NodeSecret.objects.bulk_create(
        list(rows),
        batch_size=_BATCH,
        update_conflicts=True,
        unique_fields=["node", "site_number"],
        update_fields=["sealed"],
    )


def _lock(mode: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"LOCK TABLE node_secret IN {mode} MODE")
