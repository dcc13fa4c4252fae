"""Names: whatever a person types is refused, or becomes something safe in a path, an ini, a URL and in SQL."""

import re
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tenantry.spec.errors import InvalidName
from tenantry.spec.names import (
    HOSTNAME_MAX,
    RESERVED_SLUGS,
    SLUG_MAX,
    parse_environment_name,
    parse_environment_value,
    parse_hostname,
    parse_module,
    parse_slug,
    parse_wsgi,
)
from tenantry.spec.sites import ReleaseName

SAFE = re.compile(r"[a-z0-9.-]+\Z")
DANGEROUS = set("\0\n\r\t \"'`;{}$()@%\\/*?&|<>=#~!^,:[]")

anything = st.text()
# Texts close to valid ones find more than random Unicode does.
near_names = st.text(alphabet="abz019-._ \n\"';{}$@%/\\\0éΑ\u202e", max_size=70)
slugs = st.from_regex(r"[a-z][a-z0-9]{0,5}(-[a-z0-9]{1,5}){0,4}", fullmatch=True).filter(
    lambda text: text not in RESERVED_SLUGS
)
labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)


def accepted(parse: Callable[..., str], text: str) -> str | None:
    """What `parse` makes of the text; None when it is refused, naming the field it was told."""
    refused: InvalidName | None = None
    parsed: str | None = None
    try:
        parsed = parse(text, field="typed")
    except InvalidName as error:
        refused = error
    assert (parsed is None) != (refused is None)
    assert refused is None or (refused.field == "typed" and refused.message)
    return parsed


@given(anything | near_names)
@example("blog\n")
@example("..")
@example("a" * 41)
@example("ａ")
def test_a_slug_that_is_taken_is_safe_everywhere(text: str) -> None:
    slug = accepted(parse_slug, text)
    if slug is None:
        return
    assert slug == text
    assert SAFE.match(slug)
    assert "." not in slug
    assert 1 <= len(slug) <= SLUG_MAX
    assert not set(slug) & DANGEROUS


@given(slugs)
def test_every_plain_slug_is_taken(text: str) -> None:
    assert parse_slug(text) == text


@given(anything | near_names | near_names.map(lambda text: f"{text}.org"))
@example("a.org\n")
@example("..")
@example("a..org")
@example("127.0.0.1")
@example("[::1]")
def test_a_hostname_that_is_taken_is_safe_everywhere(text: str) -> None:
    name = accepted(parse_hostname, text)
    if name is None:
        return
    assert SAFE.match(name)
    assert not set(name) & DANGEROUS
    assert len(name) <= HOSTNAME_MAX
    assert not name.startswith((".", "-"))
    assert ".." not in name
    assert all(0 < len(label) <= 63 for label in name.split("."))
    assert parse_hostname(name) == name, "what was stored is found again"


@given(st.lists(labels, min_size=2, max_size=4).filter(lambda parts: not parts[-1].isdigit()))
def test_every_plain_hostname_is_taken_in_lowercase(parts: list[str]) -> None:
    name = ".".join(parts)
    if not name.endswith(("tenantry.localhost", "dashboard.localhost")):
        assert parse_hostname(name.upper() + ".") == name


@given(anything | near_names)
def test_a_variable_that_is_taken_can_be_set(text: str) -> None:
    try:
        name = parse_environment_name(text)
    except InvalidName:
        return
    assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)
    assert not name.startswith(("TENANTRY_", "UWSGI_", "LD_"))


@given(anything)
def test_a_value_is_kept_as_it_is_or_refused(text: str) -> None:
    try:
        assert parse_environment_value("A", text) == text
    except InvalidName:
        assert "\0" in text or len(text) > 32_768


@given(anything | near_names)
def test_modules_and_applications_are_identifiers(text: str) -> None:
    for parse in (lambda: parse_module(text, field="settings"), lambda: parse_wsgi(text)):
        try:
            parsed = parse()
        except InvalidName:
            continue
        assert all(part.isidentifier() for part in re.split(r"[.:]", parsed))


@given(slugs, st.integers(min_value=1, max_value=10**6))
def test_a_release_is_written_and_read(project: str, number: int) -> None:
    name = ReleaseName.parse(f"{project}-{number}")
    assert (name.project, name.number) == (project, number)
    assert str(name) == f"{project}-{number}"


@given(anything | near_names)
def test_a_text_is_a_release_or_refused(text: str) -> None:
    try:
        name = ReleaseName.parse(text)
    except InvalidName:
        return
    assert str(name) == text


@pytest.mark.parametrize("name", sorted(RESERVED_SLUGS))
def test_reserved_slugs_are_refused_with_their_reason(name: str) -> None:
    with pytest.raises(InvalidName, match="reserved"):
        parse_slug(name)
