"""PURE: the steps that a plan is made of. `node.effects.host` does them; printing one is the dry run's line."""

from dataclasses import dataclass

from tenantry.spec.names import Fqdn, Slug


@dataclass(frozen=True, slots=True)
class Action:
    """One step. `str()` of it is the line a dry run prints."""

    slug: Slug

    def __str__(self) -> str:
        parts = [str(getattr(self, name)) for name in self.__dataclass_fields__]
        return " ".join([type(self).__name__, *parts])


@dataclass(frozen=True, slots=True)
class PrepareSite(Action):
    """Make the site's directory and its data directories, with their modes and owners."""


@dataclass(frozen=True, slots=True)
class SetLink(Action):
    """Make the link `name` in the site's directory point at `target`; None removes it."""

    name: str
    target: str | None


@dataclass(frozen=True, slots=True)
class SetFlag(Action):
    """Raise or lower one of the flags by which nginx answers for a site's mode."""

    name: str
    up: bool


@dataclass(frozen=True, slots=True)
class SetModeFile(Action):
    """Write, or remove, the document of the site's mode for one reader: `standby` or the site's own `process`."""

    reader: str
    up: bool


@dataclass(frozen=True, slots=True)
class RemoveForeign(Action):
    """Remove an entry of the site's directory that the agent did not make."""

    name: str


class FetchRelease(Action):
    """Get the desired release, whole. Generations that serve keep what they have open."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class GenerationAction(Action):
    """A step on one generation."""

    generation: int


class WriteDocument(GenerationAction):
    """Write site.<generation>.json."""

    __slots__ = ()


class ParkVassal(GenerationAction):
    """Write the ini that standby makes a vassal of when a visitor comes."""

    __slots__ = ()


class WriteVassal(GenerationAction):
    """Write the ini and wake the emperor."""

    __slots__ = ()


class RestoreSocket(GenerationAction):
    """Make the generation answer under its socket's path again: by mode and owner, else by a new process."""

    __slots__ = ()


class AwaitEnd(GenerationAction):
    """Wait until the generation's process, whose ini standby took away, has ended."""

    __slots__ = ()


class AwaitReady(GenerationAction):
    """Wait until the generation answers its health path through its own socket."""

    __slots__ = ()


class Switch(GenerationAction):
    """Point app.sock at the generation (again: its age then tells since when a removed site drains)."""

    __slots__ = ()


class LetSleep(GenerationAction):
    """Point app.sock at standby, which starts the generation when a visitor comes."""

    __slots__ = ()


class RemoveParked(GenerationAction):
    """Remove the ini by which standby would start, or end, the generation."""

    __slots__ = ()


class RemoveGeneration(GenerationAction):
    """Remove the ini, wake the emperor, remove socket and document."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class LinkHost(Action):
    """Route a hostname to the site."""

    hostname: Fqdn


@dataclass(frozen=True, slots=True)
class UnlinkHost(Action):
    """Stop routing a hostname to the site, if it still is."""

    hostname: Fqdn


class RemoveSite(Action):
    """Remove the site's directory below run/. Its data stays."""

    __slots__ = ()
