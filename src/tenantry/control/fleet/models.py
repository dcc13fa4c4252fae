"""Tables of the fleet. Nodes write them through `agent_v1.report` and `agent_v1.heartbeat`."""

from typing import Any

from django.db import models
from django.db.models.functions import Now


class Node(models.Model):
    """A machine that serves sites. `role` is the PostgreSQL role by which its agent is known."""

    name = models.CharField(max_length=100, primary_key=True)
    role = models.CharField(max_length=63, unique=True)
    joined_at = models.DateTimeField(db_default=Now())
    last_contact = models.DateTimeField(null=True)
    epoch = models.UUIDField(null=True)
    revision = models.BigIntegerField(default=0)
    digest = models.TextField(default="")
    conditions: "models.JSONField[list[dict[str, Any]], list[dict[str, Any]]]" = models.JSONField(default=list)

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
