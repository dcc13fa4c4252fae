"""Names that people type: parsed once, here. What these functions return is safe in a path, an ini and in SQL.

`parse_*` return the canonical form or raise `InvalidName` with a message for the person. Nothing else in the
platform decides what a valid name is. Renderers accept only `Slug`, `Fqdn` and integers.
"""

import re
from typing import NewType

from tenantry.spec.errors import InvalidName

Slug = NewType("Slug", str)
Fqdn = NewType("Fqdn", str)
EnvironmentName = NewType("EnvironmentName", str)

SLUG_MAX = 40  # keeps `<home>/run/sites/<slug>/<generation>.sock` under the 107 bytes of a unix socket path
HOSTNAME_MAX = 253  # RFC 1035
LABEL_MAX = 63  # RFC 1035
ENVIRONMENT_VALUE_MAX = 32_768  # one variable; Linux allows 131,072 for one string

_SLUG = re.compile(r"[a-z](?:[a-z0-9-]*[a-z0-9])?\Z")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\Z")
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}\Z")
_DOTTED = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*\Z")

RESERVED_SLUGS = frozenset(
    {
        "all",
        "admin",
        "api",
        "dashboard",
        "default",
        "health",
        "healthz",
        "localhost",
        "media",
        "metrics",
        "new",
        "none",
        "platform",
        "readyz",
        "static",
        "template",
        "tenantry",
    }
)
RESERVED_HOSTNAMES = frozenset({"localhost", "tenantry.localhost", "dashboard.localhost"})
# Variables that decide which code runs or which site a process believes to be: people may not set them.
RESERVED_ENVIRONMENT = frozenset(
    {
        "BASH_ENV",
        "DJANGO_SETTINGS_MODULE",
        "ENV",
        "HOME",
        "IFS",
        "LOGNAME",
        "PATH",
        "PYTHONHOME",
        "PYTHONPATH",
        "PYTHONSTARTUP",
        "TMPDIR",
        "USER",
    }
)
RESERVED_ENVIRONMENT_PREFIXES = ("TENANTRY_", "UWSGI_", "LD_", "GLIBC_", "MALLOC_")


def parse_slug(text: str, *, field: str = "slug") -> Slug:
    """Return `text` as a slug: 1 to 40 of a-z, 0-9 and single inner hyphens, beginning with a letter, not reserved."""
    if not text:
        raise InvalidName(field, "A slug is needed, for example «blog».")
    if len(text) > SLUG_MAX:
        raise InvalidName(field, f"A slug has at most {SLUG_MAX} characters; this one has {len(text)}.")
    if not text.isascii():
        raise InvalidName(field, "A slug uses the letters a-z, digits and hyphens only; this one has other characters.")
    if not _SLUG.match(text) or "--" in text:
        raise InvalidName(
            field,
            "A slug begins with a letter a-z, goes on with a-z, 0-9 and single hyphens, and ends with none.",
        )
    if text in RESERVED_SLUGS:
        raise InvalidName(field, f"«{text}» is reserved for the platform; choose another slug.")
    return Slug(text)


def parse_hostname(text: str, *, field: str = "hostname") -> Fqdn:
    """Return `text` as a lowercase fully qualified name without the final dot.

    At least two labels; letters, digits and hyphens; other scripts must be given in their `xn--` form, so that
    what was typed, what is stored and what nginx sees are the same bytes.
    """
    name = text.removesuffix(".")
    if not name:
        raise InvalidName(field, "A hostname is needed, for example «blog.example.org».")
    if not name.isascii():
        raise InvalidName(field, _not_ascii(name))
    name = name.lower()
    if len(name) > HOSTNAME_MAX:
        raise InvalidName(field, f"A hostname has at most {HOSTNAME_MAX} characters; this one has {len(name)}.")
    labels = name.split(".")
    for label in labels:
        if len(label) > LABEL_MAX:
            raise InvalidName(field, f"Each part of a hostname has at most {LABEL_MAX} characters.")
        if not _LABEL.match(label):
            raise InvalidName(
                field,
                "A hostname is made of parts separated by single dots; each part uses a-z, 0-9 and inner hyphens, "
                "for example «blog.example.org».",
            )
    if len(labels) < 2:
        raise InvalidName(field, "A hostname needs at least two parts, for example «blog.localhost».")
    if labels[-1].isdigit():
        raise InvalidName(field, "An IP address cannot be a hostname; use a name.")
    if name in RESERVED_HOSTNAMES:
        raise InvalidName(field, f"«{name}» is reserved for the platform; choose another hostname.")
    return Fqdn(name)


def _not_ascii(name: str) -> str:
    """Say how to write a hostname of another script. A suggestion only: IDNA 2003 and 2008 differ for some letters."""
    try:
        ascii_form = name.encode("idna").decode("ascii")
    except UnicodeError:
        return "A hostname uses the letters a-z, digits, hyphens and dots only."
    if not all(_LABEL.match(label) for label in ascii_form.split(".")):
        return "A hostname uses the letters a-z, digits, hyphens and dots only."
    return f"Write a hostname of another script in its ASCII form: probably «{ascii_form}»."


def parse_environment_name(text: str, *, field: str = "environment") -> EnvironmentName:
    """Return `text` as the name of an environment variable that people may set for a site."""
    if not _ENVIRONMENT_NAME.match(text):
        raise InvalidName(field, "The name of a variable uses A-Z, a-z, 0-9 and _, and does not begin with a digit.")
    if text in RESERVED_ENVIRONMENT or text.startswith(RESERVED_ENVIRONMENT_PREFIXES):
        raise InvalidName(field, f"The variable {text} belongs to the platform and cannot be set.")
    return EnvironmentName(text)


def parse_environment_value(name: str, text: str, *, field: str = "environment") -> str:
    """Return `text` unchanged when a process can be started with it: no NUL, at most 32,768 characters."""
    if "\0" in text:
        raise InvalidName(field, f"The value of {name} has a NUL character; the kernel takes none.")
    if len(text) > ENVIRONMENT_VALUE_MAX:
        raise InvalidName(field, f"The value of {name} has more than {ENVIRONMENT_VALUE_MAX} characters.")
    return text


def parse_module(text: str, *, field: str) -> str:
    """Return `text` as a dotted Python module name (`shop.settings`)."""
    if len(text) > 200 or not _DOTTED.match(text):
        raise InvalidName(field, "A Python module is written with dots, for example «shop.settings».")
    return text


def parse_wsgi(text: str, *, field: str = "wsgi") -> str:
    """Return `text` as `module:attribute`; the attribute defaults to `application`."""
    return _parse_application(text, field, "A WSGI application", "shop.wsgi:application")


def parse_asgi(text: str, *, field: str = "asgi") -> str:
    """Return `text` as `module:attribute`; the attribute defaults to `application`."""
    return _parse_application(text, field, "An ASGI application", "shop.asgi:application")


def _parse_application(text: str, field: str, kind: str, example: str) -> str:
    module, _, attribute = text.partition(":")
    if len(text) > 200 or not _DOTTED.match(module) or (attribute and not attribute.isidentifier()):
        raise InvalidName(field, f"{kind} is written «module:attribute», for example «{example}».")
    return f"{module}:{attribute or 'application'}"
