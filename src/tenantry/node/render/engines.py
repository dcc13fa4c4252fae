"""PURE: the engines that a node can run. A further one is a module with a driver, and a line here."""

from tenantry.node.render import granian, uwsgi
from tenantry.node.render.engine import EngineDriver
from tenantry.spec.sites import Engine

DRIVERS = {
    Engine.UWSGI: uwsgi.DRIVER,
    Engine.GRANIAN: granian.DRIVER,
}


def driver_of(engine: Engine) -> EngineDriver:
    """Return how sites of this engine are run."""
    return DRIVERS[engine]
