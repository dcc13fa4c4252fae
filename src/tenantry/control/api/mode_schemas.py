"""The documents of sites' modes."""

from datetime import datetime

from ninja import Field, Schema

from tenantry.control.api.schemas import Input


class ModeInput(Input):
    """A mode and all that goes with it: what is left out is as if it had never been set."""

    mode: str = Field(description="live, read_only, maintenance or paused")
    message: str = Field("", description="Text for visitors, at most 2,000 characters; it is never taken for HTML.")
    retry_after_seconds: int | None = Field(None, description="For Retry-After; else until `until`, else 120.")
    until: datetime | None = Field(None, description="With an offset from UTC. Then the site is live again.")
    networks: list[str] = Field([], description="Such as 192.0.2.0/24: their visitors get the site as if it were live.")
    page: str = Field("", description="HTML in place of the platform's page, at most 128 KiB; it may use /static/.")


class ModesInput(ModeInput):
    sites: list[str] = Field(description="The slugs of 1 to 200 sites.")


class ModeFailure(Schema):
    site: str
    status: int = Field(description="As this site's own request would have answered.")
    detail: str


class Modes(Schema):
    """What became of each site. Each is a change of its own: those that failed are as they were."""

    changed: list[str]
    unchanged: list[str] = Field(description="They had it already.")
    failed: list[ModeFailure]
    revision: int = Field(description="Of the latest change made; 0 when none was.")


class BypassInput(Input):
    hours: int = Field(8, description="How long it lets in, at most 168.")


class Bypass(Schema):
    """What lets a person into a site that is closed to others."""

    url: str = Field(description="Opened while the site is in a mode, it gives the browser the cookie.")
    cookie: str = Field(description="The cookie itself, for programs.")
    expires_at: datetime
