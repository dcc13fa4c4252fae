"""Tokens and users: making them, ending them, recognising them."""

import hashlib
import secrets
from datetime import datetime, timedelta

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, User
from django.db.models import Q
from django.utils import timezone

from tenantry.control.access.actors import Actor, require_admin
from tenantry.control.access.models import Token
from tenantry.control.changelog.services import ChangeType, act, append
from tenantry.control.errors import InvalidInput, NotAuthenticated, NotFound

PREFIX = "tnt_"  # so that people and secret scanners recognise a token
TOKEN_BYTES = 32
NAME_MAX = 100
LAST_USED_STEP = timedelta(minutes=1)  # one write a minute and token, however many requests


def create_token(
    actor: Actor, name: str, *, username: str | None = None, expires_at: datetime | None = None
) -> tuple[Token, str]:
    """Make a token for `username` (the actor's own user by default); return its row and its text, shown this once."""
    require_admin(actor)
    name = name.strip()
    if not name or len(name) > NAME_MAX or not name.isprintable():
        raise InvalidInput.of("name", f"A token's name has 1 to {NAME_MAX} printable characters.")
    if expires_at is not None and expires_at <= timezone.now():
        raise InvalidInput.of("expires_at", "This time has passed already.")
    user = User.objects.filter(username=username or actor.username, is_active=True).first()
    if user is None:
        raise InvalidInput.of("user", f"There is no user «{username or actor.username}».")
    text = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    with act():
        token = Token.objects.create(
            name=name, user=user, hash=hash_token(text), created_by=actor.name, expires_at=expires_at
        )
        metadata = {"token": token.pk, "name": name, "user": user.username}
        append(ChangeType.TOKEN_CREATED, actor=actor.name, metadata=metadata)
    token.refresh_from_db()
    return token, text


def revoke_token(actor: Actor, token_id: int) -> None:
    """Make a token worthless from now on; again is no error. Raises `NotFound`."""
    require_admin(actor)
    with act():
        token = Token.objects.select_for_update().filter(pk=token_id).first()
        if token is None:
            raise NotFound(f"There is no token {token_id}.")
        if token.revoked_at is None:
            token.revoked_at = timezone.now()
            token.save(update_fields=["revoked_at"])
            append(ChangeType.TOKEN_REVOKED, actor=actor.name, metadata={"token": token.pk, "name": token.name})


def authenticate(text: str) -> Actor:
    """Return the actor of a token's text. Raises `NotAuthenticated`, which never says what was wrong with it."""
    now = timezone.now()
    token = (
        Token.objects.select_related("user")
        .filter(Q(expires_at=None) | Q(expires_at__gt=now), hash=hash_token(text), revoked_at=None)
        .first()
    )
    if token is None or not token.user.is_active:
        raise NotAuthenticated("The token is not valid.")
    if token.last_used_at is None or now - token.last_used_at > LAST_USED_STEP:
        Token.objects.filter(pk=token.pk).update(last_used_at=now)
    return Actor(
        name=token.user.username,
        is_admin=token.user.is_superuser,
        username=token.user.username,
        token_id=token.pk,
        token_name=token.name,
    )


def actor_of(user: AbstractBaseUser | AnonymousUser) -> Actor:
    """Return the actor of a logged-in person. Raises `NotAuthenticated` for nobody."""
    if not isinstance(user, User) or not user.is_active:
        raise NotAuthenticated("Log in first.")
    return Actor(name=user.username, is_admin=user.is_superuser, username=user.username)


def ensure_administrator(username: str, password: str) -> bool:
    """Make sure that the administrator exists; return whether it was created. A password that exists is kept."""
    with act():
        if User.objects.filter(username=username).exists():
            return False
        User.objects.create_superuser(username, email="", password=password)
        append(ChangeType.USER_CREATED, actor="setup", metadata={"user": username, "is_admin": True})
    return True


def hash_token(text: str) -> str:
    """Return what is stored of a token. 32 random bytes need no slow hash."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
