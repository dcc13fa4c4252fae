"""Whether the home has a user id left for what is being made."""

from collections.abc import Callable

from django.conf import settings

from tenantry.control.config import ControlConfig
from tenantry.control.errors import Conflict
from tenantry.spec.errors import UserIdsExhausted


def check_user_id(uid_of: Callable[[int, int], int], number: int) -> None:
    """Raise `Conflict` when `uid_of` (of `spec.users`) has no user id for `number`. Not as root, none is needed."""
    config: ControlConfig = settings.TENANTRY
    if config.uid_base is None:
        return
    try:
        uid_of(config.uid_base, number)
    except UserIdsExhausted as error:
        raise Conflict(str(error)) from error
