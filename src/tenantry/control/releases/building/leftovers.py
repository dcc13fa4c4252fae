"""What killed builds left, removed before the next ones run."""

import logging

import psycopg

from tenantry.control.data.databases import drop_template, list_templates, template_name
from tenantry.control.releases.artifacts.publishing import remove_staged
from tenantry.control.releases.building import freeze
from tenantry.control.releases.building.context import BuildContext
from tenantry.control.releases.building.pipeline import BUILT_HERE
from tenantry.removal import remove_tree

logger = logging.getLogger(__name__)


def clean_leftovers(context: BuildContext) -> list[str]:
    """Remove what killed builds left: directories without `release.json`, templates and users without a release.

    Returns the names of what was removed. Call it only while no build runs. What is finished stays, whatever the
    database says of it: a node may serve it.
    """
    found = set(remove_staged(context.store)) if context.store is not None else set()
    finished = set()
    releases = context.home / "releases"
    if releases.is_dir():
        (releases / BUILT_HERE).touch(mode=0o644)  # also where all were built before there was a mark
    for directory in releases.iterdir() if releases.is_dir() else ():
        if directory.name.startswith("."):
            continue  # the mark, and what the node of this home is unpacking or keeps until its processes end
        if (directory / freeze.MARKER).is_file():
            finished.add(_template_of(directory.name))
        elif directory.is_dir() and not directory.is_symlink():
            remove_tree(directory)
            found.add(directory.name)
    for template in list_templates(context.server):
        if template not in finished and _drop_leftover(context, template):
            found.add(template)
    if context.cache is not None:
        for user in context.cache.users():
            if user.startswith("tpl_"):  # such a user lives only as long as its build
                context.cache.drop_user(user, user)
                found.add(user)
    return sorted(found)


def _drop_leftover(context: BuildContext, template: str) -> bool:
    """Whether a template could be dropped: one that cannot be, for whatever reason, keeps no worker from its work."""
    try:
        drop_template(context.server, template)
    except psycopg.Error as error:
        logger.warning("the template database %s, which no release has, cannot be dropped: %s", template, error)
        return False
    return True


def _template_of(release: str) -> str:
    project, _, number = release.rpartition("-")
    return template_name(project, int(number)) if number.isdigit() else ""
