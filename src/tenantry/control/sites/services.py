"""Acts of people on sites and hostnames. Their modes are in `sites.modes`, what jobs report in `sites.outcomes`.

Every act locks the site's row first and appends its change last.
"""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from django.db import IntegrityError, transaction

from tenantry.control.access.actors import Actor, require_admin
from tenantry.control.changelog.models import Change
from tenantry.control.changelog.services import ChangeType, act, append
from tenantry.control.deferral import defer
from tenantry.control.errors import Conflict, InvalidInput, NotFound
from tenantry.control.fleet import secrets as node_secrets
from tenantry.control.releases.models import Project, Release, ReleaseStatus
from tenantry.control.sealing import environment_of, sealer
from tenantry.control.sites.limits import (
    changed_limits,
    check_growth,
    check_workers,
    need_new_processes,
    parse_limits,
    parse_runtime,
)
from tenantry.control.sites.locking import lock_name as _lock
from tenantry.control.sites.locking import locked_site as _locked_site
from tenantry.control.sites.models import Hostname, Site, SiteStatus
from tenantry.control.sites.modes import (
    ModeDetails,
    ModesOutcome,
    end_mode,
    make_bypass,
    new_bypass_key,
    revoke_bypass,
    set_mode,
    set_modes,
)
from tenantry.control.sites.outcomes import (
    fail_site_upgrade,
    finish_site_removal,
    finish_site_upgrade,
    mark_site_failed,
    mark_site_provisioned,
)
from tenantry.control.users import check_user_id
from tenantry.control.validation import Parser, first_repeated, parse_environment, parse_number
from tenantry.spec.names import Fqdn, parse_hostname, parse_slug
from tenantry.spec.sites import Runtime
from tenantry.spec.users import site_uid

__all__ = [
    "ModeDetails",
    "ModesOutcome",
    "SiteChange",
    "SiteRequest",
    "add_hostname",
    "create_site",
    "delete_site",
    "end_mode",
    "fail_site_upgrade",
    "finish_site_removal",
    "finish_site_upgrade",
    "make_bypass",
    "mark_site_failed",
    "mark_site_provisioned",
    "record_command",
    "remove_hostname",
    "restart_site",
    "revoke_bypass",
    "set_mode",
    "set_modes",
    "set_runtime",
    "update_site",
]

HOSTNAMES_MAX = 100  # of one site
PROCESSES_MAX = 64
THREADS_MAX = 64
ARGV_MAX = 200
ARGUMENT_MAX = 4_000  # characters
SECRET_BYTES = 48
PASSWORD_BYTES = 32


@dataclass(frozen=True, slots=True)
class SiteRequest:
    """What a person says of a new site. `release` defaults to the project's current one."""

    slug: str
    project: str
    hostnames: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    release: str | None = None
    processes: int = 1
    threads: int = 1
    limits: Mapping[str, int] = field(default_factory=dict)
    runtime: str = Runtime.ON_DEMAND


@dataclass(frozen=True, slots=True)
class SiteChange:
    """What shall be different; None leaves it as it is. `environment` replaces all that was typed before,
    of `limits` those that are not named stay."""

    release: str | None = None
    environment: Mapping[str, str] | None = field(default=None, repr=False)
    processes: int | None = None
    threads: int | None = None
    limits: Mapping[str, int] | None = None


def create_site(actor: Actor, request: SiteRequest) -> Site:
    """Create a site and queue its provisioning; returns it with its number and revision.

    Raises `InvalidInput`, and `Conflict` when the home has no user id left for it.

    Secrets are made here, once, and sealed: a job that is tried again uses the same passwords.
    """
    require_admin(actor)
    parser = Parser()
    slug = parser.take(parse_slug, request.slug)
    names = _parse_hostnames(parser, request.hostnames)
    parser.take(parse_environment, request.environment)
    parser.take(parse_number, request.processes, 1, PROCESSES_MAX, field="processes")
    parser.take(parse_number, request.threads, 1, THREADS_MAX, field="threads")
    limits = parser.take(parse_limits, request.limits) or {}
    parser.take(check_workers, request.processes, limits)
    runtime = parser.take(parse_runtime, request.runtime)
    parser.check()
    with act():
        project = Project.objects.select_for_update(of=("self",), no_key=True).filter(name=request.project).first()
        if project is None:
            raise InvalidInput.of("project", f"There is no project «{request.project[:60]}».")
        release = _usable_release(project, request.release)
        check_growth(release.engine, release.name, request.processes, limits)
        environment = {**environment_of(project.sealed_environment), **request.environment}
        site = _insert_site(
            Site(
                slug=str(slug),
                project=project,
                release=release,
                processes=request.processes,
                threads=request.threads,
                limits=limits,
                runtime=str(runtime),
                generation=_first_generation(str(slug)),
                sealed=_seal_new(environment),
                environment_names=sorted(environment),
            )
        )
        check_user_id(site_uid, site.number)
        _insert_hostnames(site, names, "hostnames")
        defer("provision_site", lock=_lock(site), site_number=site.number)
        metadata = {"release": site.release.name, "hostnames": names}
        site.revision = append(
            ChangeType.SITE_CREATED, actor=actor.name, site=site.slug, project=project.name, metadata=metadata
        )
    return site


def update_site(actor: Actor, slug: str, change: SiteChange, *, expected_revision: int | None = None) -> Site:
    """Change a site. A new release is migrated to by a job first; the rest takes effect with a new generation.

    Raises `NotFound`, `InvalidInput`, `Conflict`, and `RevisionMismatch` unless its revision is the expected one.
    """
    require_admin(actor)
    parser = Parser()
    if change.environment is not None:
        parser.take(parse_environment, change.environment)
    if change.processes is not None:
        parser.take(parse_number, change.processes, 1, PROCESSES_MAX, field="processes")
    if change.threads is not None:
        parser.take(parse_number, change.threads, 1, THREADS_MAX, field="threads")
    if change.limits is not None:
        parser.take(parse_limits, change.limits)
    parser.check()
    with act():
        site = _locked_site(slug, expected_revision)
        changed: dict[str, object] = {}
        if change.environment is not None:
            _replace_environment(site, change.environment)
            changed["environment_names"] = site.environment_names
        for name in ("processes", "threads"):
            value = getattr(change, name)
            if value is not None and value != getattr(site, name):
                setattr(site, name, value)
                changed[name] = value
        limits = changed_limits(site.limits, change.limits or {})
        if changed or need_new_processes(limits):
            site.generation += 1
        if limits:
            site.limits = {**site.limits, **limits}
            changed["limits"] = limits
        check_workers(site.processes, site.limits)
        if change.release is not None and _move_release(site, change.release):
            changed["release"] = change.release
        if changed.keys() & {"processes", "release"} or "processes_max" in limits:
            release = site.pending_release or site.release
            check_growth(release.engine, release.name, site.processes, site.limits)
        if changed:
            site.save()
            if change.environment is not None and site.status == SiteStatus.READY:
                node_secrets.reseal_site(site)
            site.revision = append(
                ChangeType.SITE_UPDATED, actor=actor.name, site=slug, project=site.project.name, metadata=changed
            )
    return site


def restart_site(actor: Actor, slug: str) -> Site:
    """Start a new generation of the site's processes. Raises `NotFound`, `Conflict`."""
    require_admin(actor)
    with act():
        site = _locked_site(slug)
        site.generation += 1
        site.save(update_fields=["generation"])
        site.revision = append(
            ChangeType.SITE_RESTARTED,
            actor=actor.name,
            site=slug,
            project=site.project.name,
            metadata={"generation": site.generation},
        )
    return site


def set_runtime(actor: Actor, slug: str, runtime: str) -> Site:
    """Change when the site has processes: no new generation. The runtime it has already is no change.

    Raises `NotFound`, `InvalidInput`, `Conflict`.
    """
    require_admin(actor)
    wanted = parse_runtime(runtime)
    with act():
        site = _locked_site(slug)
        if site.runtime != wanted:
            metadata = {"runtime": wanted.value, "before": site.runtime}
            site.runtime = wanted.value
            site.save(update_fields=["runtime"])
            site.revision = append(
                ChangeType.SITE_RUNTIME, actor=actor.name, site=slug, project=site.project.name, metadata=metadata
            )
    return site


def delete_site(actor: Actor, slug: str, *, confirm: str, dump: bool = True) -> Site:
    """Take a site from the nodes and queue the removal of its data, after a last dump unless told otherwise.

    `confirm` must be the slug. Deleting again asks the job again. Raises `NotFound`, `InvalidInput`.
    """
    require_admin(actor)
    with act():
        site = _locked_site(slug, deleting=True)
        if confirm != slug:
            raise InvalidInput.of("confirm", f"Deleting needs the slug again: confirm={slug}")
        defer("remove_site", lock=_lock(site), site_number=site.number, dump=dump)
        if site.status != SiteStatus.DELETING:
            site.status = SiteStatus.DELETING
            site.error = ""
            site.save(update_fields=["status", "error"])
            node_secrets.forget_site(site.number)
            metadata = {"number": site.number, "generation": site.generation, "dump": dump}
            site.revision = append(
                ChangeType.SITE_DELETED, actor=actor.name, site=slug, project=site.project.name, metadata=metadata
            )
    return site


def add_hostname(actor: Actor, slug: str, name: str) -> Fqdn:
    """Route a hostname to a site; returns its canonical form. Raises `NotFound`, `InvalidInput`, `Conflict`."""
    require_admin(actor)
    parsed = parse_hostname(name, field="name")
    with act():
        site = _locked_site(slug)
        if site.hostnames.count() >= HOSTNAMES_MAX:
            raise Conflict(f"The site «{slug}» has {HOSTNAMES_MAX} hostnames, which is the most.", field="name")
        _insert_hostnames(site, [parsed], "name")
        append(
            ChangeType.HOSTNAME_ADDED,
            actor=actor.name,
            site=slug,
            project=site.project.name,
            metadata={"hostname": parsed},
        )
    return parsed


def remove_hostname(actor: Actor, slug: str, name: str) -> Site:
    """Take a hostname from a site. Raises `NotFound` when the site has no such hostname."""
    require_admin(actor)
    with act():
        site = _locked_site(slug)
        canonical = name.lower().removesuffix(".")
        removed, _ = Hostname.objects.filter(site=site, name=canonical).delete()
        if not removed:
            raise NotFound(f"The site «{slug}» has no hostname «{name}».")
        site.revision = append(
            ChangeType.HOSTNAME_REMOVED,
            actor=actor.name,
            site=slug,
            project=site.project.name,
            metadata={"hostname": canonical},
        )
    return site


def record_command(actor: Actor, slug: str, argv: Sequence[str]) -> int:
    """Note that a command is about to be run in the site's environment; returns the change's revision.

    Only its first two words are kept: later ones may be passwords, and the change log is never altered.
    """
    require_admin(actor)
    if not argv or len(argv) > ARGV_MAX or any(len(word) > ARGUMENT_MAX or "\0" in word for word in argv):
        raise InvalidInput.of("argv", f"1 to {ARGV_MAX} words of at most {ARGUMENT_MAX} characters are needed.")
    with act():
        site = _locked_site(slug)
        return append(
            ChangeType.SITE_COMMAND,
            actor=actor.name,
            site=slug,
            project=site.project.name,
            metadata={"argv": list(argv[:2]), "more": len(argv[2:])},
        )


def _parse_hostnames(parser: Parser, names: Iterable[str]) -> list[Fqdn]:
    parsed = [parser.take(parse_hostname, name, field="hostnames") for name in names]
    good = [name for name in parsed if name is not None]
    repeated = first_repeated(good)
    if repeated:
        parser.refuse("hostnames", f"«{repeated}» is there twice.")
    if len(parsed) > HOSTNAMES_MAX:
        parser.refuse("hostnames", f"A site has at most {HOSTNAMES_MAX} hostnames.")
    return good


def _insert_site(site: Site) -> Site:
    try:
        with transaction.atomic():
            site.save(force_insert=True)
    except IntegrityError as error:
        raise InvalidInput.of("slug", f"There is a site «{site.slug}» already; choose another slug.") from error
    return site


def _insert_hostnames(site: Site, names: Sequence[str], field_name: str) -> None:
    """Insert hostnames in one order, so that two acts with the same names cannot wait for each other."""
    try:
        with transaction.atomic():
            for name in sorted(names):
                Hostname.objects.create(name=name, site=site)
    except IntegrityError as error:
        taken = Hostname.objects.filter(name__in=names).select_related("site").order_by("name")
        message = " ".join(f"«{row.name}» belongs to the site {row.site.slug} already." for row in taken)
        raise InvalidInput.of(field_name, message or "A hostname was taken at this moment; try again.") from error


def _usable_release(project: Project, name: str | None) -> Release:
    if name is None:
        if project.current_release is None:
            raise InvalidInput.of("project", f"The project «{project.name}» has no ready release yet.")
        return project.current_release
    release = Release.objects.filter(project=project, name=name).first()
    if release is None:
        raise InvalidInput.of("release", f"The project «{project.name}» has no release «{name[:60]}».")
    if release.status != ReleaseStatus.READY:
        raise InvalidInput.of("release", f"{release.name} is {release.status}; a ready release is needed.")
    return release


def _move_release(site: Site, name: str) -> bool:
    """Ask for a release. Returns whether anything is to be done."""
    release = _usable_release(site.project, name)
    if release.pk == (site.pending_release_id or site.release_id):
        return False
    site.pending_release = release
    site.error = ""
    defer("upgrade_site", lock=_lock(site), site_number=site.number, release_name=release.name)
    return True


def _first_generation(slug: str) -> int:
    """Return the generation a new site begins with: later than any of a removed namesake, whose file names the
    emperor may still remember as failed."""
    removed = Change.objects.filter(site_slug=slug, type=ChangeType.SITE_DELETED).order_by("-revision").first()
    return int(removed.metadata["generation"]) + 1 if removed else 1


def _seal_new(environment: Mapping[str, str]) -> str:
    return sealer().seal(
        {
            "environment": dict(environment),
            "secret_key": secrets.token_urlsafe(SECRET_BYTES),
            "database_password": secrets.token_urlsafe(PASSWORD_BYTES),
            "cache_password": secrets.token_urlsafe(PASSWORD_BYTES),
            "bypass_key": new_bypass_key(),
        }
    )


def _replace_environment(site: Site, environment: Mapping[str, str]) -> None:
    box = sealer()
    effective = {**environment_of(site.project.sealed_environment), **environment}
    site.sealed = box.seal({**box.unseal(site.sealed), "environment": effective})
    site.environment_names = sorted(effective)
