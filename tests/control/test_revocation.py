"""A revoked token is worthless at once, also to an answer that is still being given."""

from collections.abc import Callable

import httpx
import pytest

from tenantry.control.access.actors import Actor
from tenantry.control.access.models import Token
from tenantry.control.access.services import revoke_token
from tenantry.control.sites.models import Site

from .conftest import Live

MakeSite = Callable[..., Site]
WAIT_SECONDS = 10.0  # below the heartbeat of events: what ends there ends because of the revocation


@pytest.mark.parametrize("address", ["/events", "/sites/blog/logs?follow=true"])
def test_a_long_answer_ends_when_its_token_is_revoked(
    live: Live, make_site: MakeSite, admin: Actor, address: str
) -> None:
    make_site("blog")
    log = live.home / "logs" / "sites" / "blog.log"
    log.parent.mkdir(parents=True)
    log.write_text("a line\n")
    url = f"{live.url}/api/v1{address}"
    with httpx.stream("GET", url, headers=live.headers, timeout=WAIT_SECONDS) as response:
        lines = response.iter_lines()
        next(lines)
        revoke_token(admin, Token.objects.get().pk)
        assert not [line for line in lines if "token.revoked" in line]
