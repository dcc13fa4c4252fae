"""Reading the change log."""

from uuid import UUID

from tenantry.control.changelog.models import Change, PlatformState


def head() -> tuple[UUID, int]:
    """Return the epoch and the revision of the latest change."""
    state = PlatformState.objects.get()
    return state.epoch, state.revision


def changes_after(revision: int, limit: int) -> list[Change]:
    """Return the changes later than `revision`, oldest first, at most `limit`."""
    return list(Change.objects.filter(revision__gt=revision).order_by("revision")[:limit])


def latest_changes(limit: int) -> list[Change]:
    """Return the latest changes, oldest first, at most `limit`."""
    return list(Change.objects.order_by("-revision")[:limit])[::-1]
