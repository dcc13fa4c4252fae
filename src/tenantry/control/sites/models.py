"""Tables of sites and hostnames."""

from typing import Any

from django.db import models
from django.db.models.functions import Now

from tenantry.control.releases.models import Project, Release


class SiteStatus(models.TextChoices):
    """Where a site stands on its way from asked-for to served to gone."""

    PROVISIONING = "provisioning"
    READY = "ready"
    FAILED = "failed"
    DELETING = "deleting"


class Site(models.Model):
    """One tenant. `number` is its primary identity (role, database, uid) and is never used again; the slug may be."""

    number = models.BigAutoField(primary_key=True)
    slug = models.CharField(max_length=40, unique=True)
    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="sites")
    release = models.ForeignKey(Release, on_delete=models.PROTECT, related_name="sites")
    # Asked for, but not yet migrated to: `release` stays what serves until the job has run the migrations.
    pending_release = models.ForeignKey(Release, null=True, on_delete=models.PROTECT, related_name="+")
    status = models.CharField(max_length=20, choices=SiteStatus.choices, default=SiteStatus.PROVISIONING)
    error = models.TextField(default="")
    mode = models.CharField(max_length=20, default="live")
    # What goes with the mode (`spec.modes.ModeOptions`); `mode_until`: when a job makes the site live again.
    mode_options: "models.JSONField[dict[str, Any], dict[str, Any]]" = models.JSONField(default=dict, db_default={})
    mode_until = models.DateTimeField(null=True)
    # Asked for, but not yet the mode: the database is made writable first (`sites.database_mode`).
    pending_mode = models.CharField(max_length=20, null=True)
    database_read_only = models.BooleanField(default=False, db_default=False)  # what the last job has brought about
    runtime = models.CharField(max_length=20, default="always_on")
    generation = models.BigIntegerField(default=1)
    revision = models.BigIntegerField(default=0)  # of its latest change; set by a trigger on `change`
    processes = models.IntegerField(default=1)
    threads = models.IntegerField(default=1)
    # `spec.limits.Limits`; what is not in it has the default
    limits: "models.JSONField[dict[str, int], dict[str, int]]" = models.JSONField(default=dict, db_default={})
    # {"environment", "secret_key", "database_password", "cache_password", "bypass_key"}, and "database_user" and
    # "cache_user" once passwords were renewed; readable with the platform key only
    sealed = models.TextField()
    environment_names: "models.JSONField[list[str], list[str]]" = models.JSONField(default=list)
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "site"
        indexes = [models.Index(fields=["revision"], name="site_by_revision")]

    def __str__(self) -> str:
        return self.slug


class Hostname(models.Model):
    """An FQDN routed to exactly one site."""

    name = models.CharField(max_length=253, primary_key=True)
    site = models.ForeignKey(Site, on_delete=models.CASCADE, related_name="hostnames")
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "hostname"

    def __str__(self) -> str:
        return self.name
