"""`tenantry token`: keys to the API."""

from typing import Annotated

import typer

from tenantry.cli.client import path
from tenantry.cli.command import Session, command, noun
from tenantry.cli.documents import Document
from tenantry.cli.output import ago

app = noun("token", "Keys to the API.")


@command(app, "create", example="tenantry token create ci")
def create(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is for.", show_default=False)],
) -> None:
    """Make a token for a program. It is shown this once; the platform keeps a hash."""
    token: Document = session.client.post(path("tokens"), {"name": name})

    def show() -> None:
        session.output.line(str(token["token"]))
        session.output.remark("Keep it now: it cannot be shown again. Programs take it as TENANTRY_TOKEN.", "dim")

    session.output.result(token, show)


@command(app, "list", example="tenantry token list")
def list_(session: Session) -> None:
    """List the tokens, without their secrets."""
    tokens: list[Document] = session.client.items(path("tokens"))
    rows = [
        (
            token["id"],
            token["name"],
            "revoked" if token.get("revoked_at") else "ok",
            token.get("user"),
            ago(token.get("created_at")),
            ago(token.get("last_used_at")),
        )
        for token in tokens
    ]

    def show() -> None:
        columns = ("id", "name", "state", "user", "created", "used")
        session.output.table(columns, rows, "No token yet.", keep=("id", "state", "created", "used"))

    session.output.result(tokens, show)


@command(app, "revoke", example="tenantry token revoke 3")
def revoke(
    session: Session,
    number: Annotated[int, typer.Argument(metavar="ID", min=1, help="As «token list» shows it.", show_default=False)],
) -> None:
    """Make a token worthless at once."""
    session.client.delete(path("tokens", number))
    session.output.result({"revoked": number}, lambda: session.output.line(f"Token {number} is revoked."))
