"""The errors of the agent.

NodeError
├── ConfigError        agent.json is missing, unreadable or wrong: nothing is started
├── Transient          tried again after a while
│   ├── StoreUnavailable   PostgreSQL does not answer, or the connection broke
│   ├── EmperorUnavailable the emperor's stats socket does not answer
│   └── NotConverged       the read-back still differs from what is desired
├── Refused            an update of the desired state that is not applied (stale, or it would remove too much)
└── NotReady           a generation will not serve: reported, then the agent waits for a new generation
"""


class NodeError(Exception):
    """Root of the agent's errors."""


class ConfigError(NodeError):
    """The agent's configuration cannot be used. The message names the file and the key."""


class Transient(NodeError):
    """Worth trying again, later and later."""


class StoreUnavailable(Transient):
    """PostgreSQL could not be asked."""


class EmperorUnavailable(Transient):
    """The uWSGI emperor could not be asked."""


class NotConverged(Transient):
    """What was applied does not read back as desired."""


class Refused(NodeError):
    """A desired state that must not be applied. `condition` is the type under which it is reported."""

    def __init__(self, condition: str, message: str) -> None:
        super().__init__(message)
        self.condition = condition


class NotReady(NodeError):
    """A generation never became ready. `log` is the end of what its process wrote."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log
