"""Reading tokens."""

from tenantry.control.access.actors import Actor, require_admin
from tenantry.control.access.models import Token


def tokens(actor: Actor) -> list[Token]:
    """Return every token, oldest first."""
    require_admin(actor)
    return list(Token.objects.select_related("user").order_by("id"))
