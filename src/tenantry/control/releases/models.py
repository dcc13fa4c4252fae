"""Tables of projects and releases."""

from django.db import models
from django.db.models.functions import Now


class Project(models.Model):
    """A Django codebase. `number` is its identity on disk and in user ids; it is never used again."""

    number = models.BigAutoField(primary_key=True)
    name = models.CharField(max_length=40, unique=True)
    source = models.TextField()
    settings = models.TextField(default="")  # empty: found by the build
    wsgi = models.TextField(default="")  # empty: found by the build
    python = models.CharField(max_length=20, default="")  # empty: the build chooses
    health_path = models.CharField(max_length=500, default="/")
    serve_media = models.BooleanField(default=True)
    engine = models.CharField(max_length=20, default="uwsgi", db_default="uwsgi")
    asgi = models.TextField(default="", db_default="")  # empty: found by the build, for an engine that needs it
    warm_paths: "models.JSONField[list[str], list[str]]" = models.JSONField(default=list, db_default=[])
    sealed_environment = models.TextField(default="")  # sealed {"NAME": "value"}: defaults for its builds and sites
    environment_names: "models.JSONField[list[str], list[str]]" = models.JSONField(default=list)
    current_release = models.ForeignKey["Release | None"](
        "releases.Release", null=True, on_delete=models.SET_NULL, related_name="+"
    )
    last_release = models.IntegerField(default=0)  # the highest release number given out, also of a removed namesake
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "project"

    def __str__(self) -> str:
        return self.name


class ReleaseStatus(models.TextChoices):
    """Where a build stands. ready and failed are final."""

    QUEUED = "queued"
    BUILDING = "building"
    READY = "ready"
    FAILED = "failed"


class Release(models.Model):
    """An immutable build of a project. Its name is `<project>-<number>`."""

    id = models.BigAutoField(primary_key=True)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="releases")
    number = models.IntegerField()
    name = models.CharField(max_length=60, unique=True)
    status = models.CharField(max_length=20, choices=ReleaseStatus.choices, default=ReleaseStatus.QUEUED)
    activate_when_ready = models.BooleanField(default=True)
    step = models.TextField(default="")
    error = models.TextField(default="")
    log_tail = models.TextField(default="")
    digest = models.TextField(default="")
    commit = models.TextField(default="")
    python = models.TextField(default="")
    django = models.TextField(default="")
    wsgi = models.TextField(default="")
    engine = models.CharField(max_length=20, default="uwsgi", db_default="uwsgi")
    asgi = models.TextField(default="", db_default="")
    settings = models.TextField(default="")
    manage = models.TextField(default="")
    static = models.TextField(null=True)  # relative to the release's directory
    artifact = models.TextField(null=True)  # "sha256:…" of its tar.gz in the artifact store; null: not published
    artifact_size = models.BigIntegerField(null=True)  # bytes of the tar.gz
    created_at = models.DateTimeField(db_default=Now())
    finished_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "release"
        constraints = [models.UniqueConstraint(fields=["project", "number"], name="release_number_once")]

    def __str__(self) -> str:
        return self.name
