"""Reading the change log."""

from uuid import UUID

from django.db.models import Func, UUIDField

from tenantry.control.changelog.models import Change, PlatformState


class _PlatformEpoch(Func):
    function = "platform_epoch"
    output_field = UUIDField()


def head() -> tuple[UUID, int]:
    """Return the epoch and the revision of the latest change."""
    epoch, revision = PlatformState.objects.values_list(_PlatformEpoch(), "revision").get()
    return epoch, revision


def tail() -> int:
    """Return the revision up to which changes may be missing from the log, 0 when it is whole."""
    return PlatformState.objects.values_list("tail", flat=True).get()


def type_of(revision: int) -> str | None:
    """Return the type of a change, None when the log does not have it (any more)."""
    return Change.objects.filter(revision=revision).values_list("type", flat=True).first()


def changes_after(revision: int, limit: int) -> list[Change]:
    """Return the changes later than `revision`, oldest first, at most `limit`."""
    return list(Change.objects.filter(revision__gt=revision).order_by("revision")[:limit])


def latest_changes(limit: int) -> list[Change]:
    """Return the latest changes, oldest first, at most `limit`."""
    return list(Change.objects.order_by("-revision")[:limit])[::-1]
