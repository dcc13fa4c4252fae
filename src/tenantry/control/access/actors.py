"""Who acts. Every service takes an `Actor` first and checks here what it may."""

from dataclasses import dataclass

from tenantry.control.errors import Forbidden


@dataclass(frozen=True, slots=True)
class Actor:
    """The person or program behind an act. `name` goes into the change log; `token_id` is set when a token was used."""

    name: str
    is_admin: bool
    username: str = ""
    token_id: int | None = None
    token_name: str = ""


JOBS = Actor(name="jobs", is_admin=True)
SETUP = Actor(name="setup", is_admin=True)


def require_admin(actor: Actor) -> None:
    """Raise `Forbidden` unless the actor administers the platform. For now only administrators may do anything."""
    if not actor.is_admin:
        raise Forbidden("Only an administrator may do this.")
