"""The errors of `tenantry.embedded`. Each message says what is wrong, where, and what to do.

EmbeddedError
├── HomeUnusable       the home directory cannot be used: not writable, too long, no space, another version's
├── PortTaken          a port is in use, or this user may not listen on it
├── ToolMissing        a program (PostgreSQL, nginx, ...) is not installed or too old
├── CommandFailed      a command that had to succeed did not; carries the end of its output
├── ComponentFailed    a process of the platform did not become ready; carries the end of its log
├── DemoFailed         the demo project or one of its sites could not be made
└── JoinFailed         this machine did not become a node: no platform there, or it refused

Interrupted            a person pressed Ctrl-C (or a signal asked to stop): not an error, everything is undone
"""


class EmbeddedError(Exception):
    """Root: what `up`, `down` and `status` turn into one message and exit code 1."""


class HomeUnusable(EmbeddedError):
    """The home directory cannot be used."""


class PortTaken(EmbeddedError):
    """A port is in use, or this user may not listen on it."""


class ToolMissing(EmbeddedError):
    """A program is not installed, or is too old."""


class CommandFailed(EmbeddedError):
    """A command that had to succeed did not. `output` is the end of what it printed."""

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(message)
        self.output = output


class ComponentFailed(EmbeddedError):
    """A process of the platform did not become ready. `log` is the end of its log, `path` the whole of it."""

    def __init__(self, component: str, message: str, log: str = "", path: str = "") -> None:
        super().__init__(message)
        self.component = component
        self.log = log
        self.path = path


class DemoFailed(EmbeddedError):
    """The demo project or one of its sites could not be made."""


class JoinFailed(EmbeddedError):
    """This machine did not become a node; the token is unused unless the message says otherwise."""


class Interrupted(Exception):
    """A signal asked to stop. Raised only where waiting is safe to leave."""
