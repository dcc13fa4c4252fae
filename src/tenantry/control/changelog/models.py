"""Tables of the change log. Rows come into being through `changelog_append` only."""

import uuid

from django.db import models
from django.db.models.functions import Now


class PlatformState(models.Model):
    """One row: the revision counter that orders all changes, and the random part of the epoch in which it counts.

    The epoch itself is what the SQL function `platform_epoch()` returns: a restored or promoted copy has another.
    """

    singleton = models.BooleanField(primary_key=True, default=True)
    epoch = models.UUIDField(default=uuid.uuid4)
    revision = models.BigIntegerField(default=0)
    tail = models.BigIntegerField(default=0, db_default=0)  # changes up to here may have been removed by a compaction

    class Meta:
        db_table = "platform_state"
        constraints = [models.CheckConstraint(condition=models.Q(singleton=True), name="platform_state_one_row")]

    def __str__(self) -> str:
        return f"{self.epoch} at {self.revision}"


class Change(models.Model):
    """One act: what happened, to which site or project, by whom. Never updated; removed by `changelog_compact` only."""

    revision = models.BigIntegerField(primary_key=True)
    epoch = models.UUIDField()
    type = models.TextField()
    site_slug = models.TextField(null=True)
    project = models.TextField(null=True)
    actor = models.TextField()
    metadata = models.JSONField(default=dict)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "change"
        ordering = ["revision"]
        indexes = [
            models.Index(fields=["site_slug", "-revision"], name="change_by_site"),
            models.Index(fields=["project", "-revision"], name="change_by_project"),
            # The tombstones that `agent_v1.desired` looks for.
            models.Index(fields=["revision"], name="change_removals", condition=models.Q(type="site.deleted")),
        ]

    def __str__(self) -> str:
        return f"{self.revision} {self.type}"
