"""Tables of the fleet. Nodes write theirs through `agent_v1.report` and `agent_v1.heartbeat`; services the rest."""

from typing import Any

from django.db import models
from django.db.models import Func, Value
from django.db.models.functions import Now

NUMBERS = "node_number_seq"  # the sequence of nodes' numbers, made by a migration


class Node(models.Model):
    """A machine that serves sites. `role` is the PostgreSQL role by which its agent is known."""

    name = models.CharField(max_length=100, primary_key=True)
    # Never used again, the name may be: roles and locks of jobs are named by it.
    number = models.BigIntegerField(unique=True, db_default=Func(Value(NUMBERS), function="nextval"))
    role = models.CharField(max_length=63, unique=True)
    joined_at = models.DateTimeField(db_default=Now())
    # Empty for a node of the release before nodes had keys: it gets what is sealed with the platform key.
    sealed_key = models.TextField(default="", db_default="")  # the node's key, readable with the platform key only
    token_hash = models.CharField(max_length=64, default="", db_default="")  # of its API token; empty: it has none
    full_from = models.BigIntegerField(default=0, db_default=0)  # it must read everything anew if it read before this

    # What people ask of it.
    draining = models.BooleanField(default=False, db_default=False)
    confirmed = models.CharField(max_length=64, null=True)  # the mass removal that a person has confirmed
    check_requested = models.BigIntegerField(default=0, db_default=0)  # the number of the last check asked for
    check_repair = models.BooleanField(default=False, db_default=False)

    # What it says of itself.
    last_contact = models.DateTimeField(null=True)
    epoch = models.UUIDField(null=True)
    revision = models.BigIntegerField(default=0)
    digest = models.TextField(default="")
    conditions: "models.JSONField[list[dict[str, Any]], list[dict[str, Any]]]" = models.JSONField(default=list)
    checked: "models.JSONField[dict[str, Any] | None, dict[str, Any] | None]" = models.JSONField(null=True)
    checked_at = models.DateTimeField(null=True)
    checked_id = models.BigIntegerField(default=0, db_default=0)  # the last check asked for that it has answered
    notifications = models.BooleanField(null=True)  # False: none come in, it polls
    version = models.TextField(default="", db_default="")
    features: "models.JSONField[list[str], list[str]]" = models.JSONField(default=list, db_default=[])

    class Meta:
        db_table = "node"

    def __str__(self) -> str:
        return self.name


class NodeSite(models.Model):
    """What one node last said of one site. Known by slug: the row outlives the site until the node says «absent»."""

    id = models.BigAutoField(primary_key=True)
    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="sites")
    slug = models.CharField(max_length=40)
    revision = models.BigIntegerField()
    generation = models.BigIntegerField(default=0)
    state = models.CharField(max_length=20)
    message = models.TextField(default="")
    log = models.TextField(default="")
    reported_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "node_site"
        constraints = [models.UniqueConstraint(fields=["node", "slug"], name="node_site_once")]
        indexes = [models.Index(fields=["slug"], name="node_site_by_slug")]

    def __str__(self) -> str:
        return f"{self.slug} on {self.node_id}: {self.state}"


class NodeSecret(models.Model):
    """One site's secrets, sealed with one node's key. There is one for each ready site and node with a key.

    No foreign key to the site: its lock on the site's row would be taken against the order of `fleet.secrets`.
    """

    id = models.BigAutoField(primary_key=True)
    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="secrets")
    site_number = models.BigIntegerField()
    sealed = models.TextField()

    class Meta:
        db_table = "node_secret"
        constraints = [models.UniqueConstraint(fields=["node", "site_number"], name="node_secret_once")]
        indexes = [models.Index(fields=["site_number"], name="node_secret_by_site")]

    def __str__(self) -> str:
        return f"site {self.site_number} for {self.node_id}"


class NodeDrift(models.Model):
    """One difference that a node found between its files and processes and the desired state.

    `good_at`: when it was last seen right; `found_at`; `repaired_at`: null while it is open.
    """

    id = models.BigAutoField(primary_key=True)
    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="drifts")
    site_slug = models.TextField(null=True)
    kind = models.CharField(max_length=20)
    path = models.TextField()
    detail = models.TextField(default="")
    good_at = models.DateTimeField(null=True)
    found_at = models.DateTimeField()
    repaired_at = models.DateTimeField(null=True)
    took_seconds = models.FloatField(null=True)

    class Meta:
        db_table = "node_drift"
        indexes = [models.Index(fields=["node", "-id"], name="node_drift_latest")]
        constraints = [
            models.UniqueConstraint(
                fields=["node", "path", "kind"],
                condition=models.Q(repaired_at=None),
                name="node_drift_open_once",
            )
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.path} on {self.node_id}"


class JoinToken(models.Model):
    """What lets one machine join, once, for a while. Only the SHA-256 of its text is kept."""

    id = models.BigAutoField(primary_key=True)
    hash = models.CharField(max_length=64, unique=True)
    created_by = models.TextField()
    created_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True)
    node = models.TextField(null=True)  # the name of the node that used it
    with_control = models.BooleanField(default=False)

    class Meta:
        db_table = "join_token"

    def __str__(self) -> str:
        return f"join token {self.pk}"
