"""The platform key, as this process has it."""

from collections.abc import Mapping

from django.conf import settings

from tenantry.control.config import ConfigError, ControlConfig
from tenantry.sealing import Sealer


def sealer() -> Sealer:
    """Return a sealer with the platform key of the configuration; raises `ConfigError` when there is none."""
    config: ControlConfig = settings.TENANTRY
    if not config.platform_key:
        raise ConfigError("No platform key is configured: secrets cannot be sealed.")
    return Sealer([config.platform_key])


def environment_of(sealed: str) -> Mapping[str, str]:
    """Return the environment in a sealed document; empty for an empty text."""
    return dict(sealer().unseal(sealed)["environment"]) if sealed else {}
