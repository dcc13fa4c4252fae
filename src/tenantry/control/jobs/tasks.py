"""The jobs that services defer, by name."""

from procrastinate.contrib.django import app


@app.task(queue="sites")
def provision_site(site_number: int) -> None:
    raise NotImplementedError


@app.task(queue="sites")
def remove_site(site_number: int, dump: bool) -> None:
    raise NotImplementedError


@app.task(queue="sites")
def upgrade_site(site_number: int, release_name: str) -> None:
    raise NotImplementedError


@app.task(queue="builds")
def build_release(release_name: str) -> None:
    raise NotImplementedError
