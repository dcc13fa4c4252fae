"""Projects and releases: added, built, failed, activated, removed."""

from dataclasses import replace

import pytest
from django.conf import settings
from django.db import connection
from procrastinate.contrib.django.models import ProcrastinateJob

from tenantry.control.access.actors import Actor
from tenantry.control.changelog.models import Change
from tenantry.control.errors import NotFound
from tenantry.control.releases import queries, services
from tenantry.control.releases.models import Project
from tenantry.control.sealing import environment_of

from .conftest import FACTS, Api


def types() -> list[str]:
    return list(Change.objects.exclude(type__regex=r"^(token|user|node)\.").values_list("type", flat=True))


def test_a_project_is_added_with_its_first_build_in_one_transaction(api: Api) -> None:
    body = {"name": "shop", "source": "/srv/shop", "environment": {"KEY": "hidden"}, "wsgi": "shop.wsgi"}
    response = api("POST", "/projects", body)
    assert response.status_code == 201
    assert response.headers["Location"] == "/api/v1/projects/shop"
    assert response.json()["wsgi"] == "shop.wsgi:application"
    assert response.json()["environment_names"] == ["KEY"]
    assert "hidden" not in response.content.decode()
    project = Project.objects.get()
    assert "hidden" not in project.sealed_environment
    assert environment_of(project.sealed_environment) == {"KEY": "hidden"}
    (release,) = api.get("/projects/shop/releases")["items"]
    assert (release["name"], release["status"]) == ("shop-1", "queued")
    job = ProcrastinateJob.objects.get()
    assert (job.task_name, job.args, job.lock) == ("build_release", {"release_name": "shop-1"}, "project-1")
    assert types() == ["project.created"]


def test_a_project_has_an_engine_until_a_release_is_asked_for_with_another(api: Api) -> None:
    body = {"name": "chat", "source": "/srv/chat", "engine": "granian", "asgi": "chat.asgi"}
    added = api("POST", "/projects", body).json()
    assert (added["engine"], added["asgi"]) == ("granian", "chat.asgi:application")
    assert api.get("/releases/chat-1")["engine"] == "granian"
    assert api("POST", "/projects/chat/releases").json()["engine"] == "granian"
    assert api("POST", "/projects/chat/releases", {"engine": "uwsgi"}).json()["engine"] == "uwsgi"
    assert api.get("/projects/chat")["engine"] == "uwsgi"
    assert api.get("/releases/chat-2")["engine"] == "granian"  # its build has not begun yet
    refused = api("POST", "/projects/chat/releases", {"engine": "apache"})
    assert (refused.status_code, [error["field"] for error in refused.json()["errors"]]) == (422, ["engine"])
    names = [release["name"] for release in api.get("/projects/chat/releases")["items"]]
    assert names == ["chat-3", "chat-2", "chat-1"]


def test_a_project_past_the_homes_user_ids_is_refused_and_leaves_nothing(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "TENANTRY", replace(settings.TENANTRY, uid_base=1_900_000_000))
    with connection.cursor() as cursor:
        cursor.execute("SELECT setval(pg_get_serial_sequence('project', 'number'), 9998)")
    assert api("POST", "/projects", {"name": "last", "source": "/srv/last"}).json()["number"] == 9_999
    response = api("POST", "/projects", {"name": "shop", "source": "/srv/shop"})
    assert response.status_code == 409
    assert "no user id for project number 10000" in response.json()["detail"]
    assert [project.name for project in Project.objects.all()] == ["last"]
    assert ProcrastinateJob.objects.count() == 1
    assert types() == ["project.created"]


def test_the_first_ready_release_becomes_current_and_later_ones_when_activated(api: Api, project: str) -> None:
    assert api.get("/projects/demo")["current_release"] == "demo-1"
    assert api("POST", "/projects/demo/releases").json()["name"] == "demo-2"
    assert api("POST", "/releases/demo-2/activate").status_code == 409
    services.start_release_step("demo-2", "venv")
    assert api.get("/releases/demo-2")["status"] == "building"
    services.finish_release("demo-2", FACTS)
    services.finish_release("demo-2", FACTS)
    assert api.get("/projects/demo")["current_release"] == "demo-1"
    assert api("POST", "/releases/demo-2/activate", {}).json()["current_release"] == "demo-2"
    api("POST", "/projects/demo/releases", {"activate": True})
    services.finish_release("demo-3", FACTS)
    assert api.get("/projects/demo")["current_release"] == "demo-3"
    assert [release["name"] for release in api.get("/projects/demo/releases")["items"]] == [
        "demo-3",
        "demo-2",
        "demo-1",
    ]
    assert types()[-5:] == [
        "release.requested",
        "release.built",
        "release.activated",
        "release.requested",
        "release.built",
    ]


def test_a_failed_build_says_where_and_why(api: Api, admin: Actor) -> None:
    services.add_project(admin, services.ProjectRequest(name="shop", source="/srv/shop"))
    services.start_release_step("shop-1", "install")
    services.fail_release("shop-1", "install", "no such package", "line\0 of the log")
    release = api.get("/releases/shop-1")
    assert (release["status"], release["step"], release["error"]) == ("failed", "install", "no such package")
    assert release["log_tail"] == "line of the log"
    assert release["finished_at"]
    assert api.get("/projects/shop")["current_release"] is None
    services.finish_release("shop-1", FACTS)
    assert api("POST", "/sites", {"slug": "blog", "project": "shop"}).status_code == 201, "a retry that succeeds counts"


def test_a_project_without_a_release_takes_no_site(api: Api, admin: Actor) -> None:
    services.add_project(admin, services.ProjectRequest(name="shop", source="/srv/shop"))
    response = api("POST", "/sites", {"slug": "blog", "project": "shop"})
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "project"
    response = api("POST", "/sites", {"slug": "blog", "project": "shop", "release": "shop-1"})
    assert response.json()["errors"][0]["field"] == "release"


def test_a_project_with_sites_is_kept(api: Api, make_site: object) -> None:
    make_site("blog")  # type: ignore[operator]
    response = api("DELETE", "/projects/demo")
    assert response.status_code == 409
    assert "1 site" in response.json()["detail"]


def test_a_removed_project_leaves_its_numbers_used(api: Api, project: str, admin: Actor) -> None:
    number = api.get("/projects/demo")["number"]
    assert api("DELETE", "/projects/demo").status_code == 204
    assert api("GET", "/releases/demo-1").status_code == 404
    job = ProcrastinateJob.objects.latest("id")
    assert job.task_name == "remove_project"
    expected = {"project_number": number, "project_name": "demo", "releases": ["demo-1"], "artifacts": []}
    assert job.args == expected
    services.add_project(admin, services.ProjectRequest(name="demo", source="/srv/demo"))
    assert queries.project("demo").number > number
    assert [release.name for release in queries.releases("demo")] == ["demo-2"]


def test_reports_of_removed_releases_are_refused(api: Api, project: str) -> None:
    api("DELETE", "/projects/demo")
    services.start_release_step("demo-1", "venv")
    with pytest.raises(NotFound):
        services.finish_release("demo-1", FACTS)


SSH_SOURCES = ["ssh://git@git.example.org/shop.git", "git@git.example.org:shop.git", "git+ssh://git@example.org/shop"]


@pytest.mark.parametrize("source", SSH_SOURCES)
def test_where_builds_have_users_of_their_own_ssh_is_refused_with_the_way_out(
    api: Api, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setattr(settings, "TENANTRY", replace(settings.TENANTRY, uid_base=1_900_000_000))
    response = api("POST", "/projects", {"name": "shop", "source": source})
    assert response.status_code == 422
    (error,) = response.json()["errors"]
    assert error["field"] == "source"
    assert "Clone the repository yourself and give the directory, or give an https URL" in error["message"]
    assert not Project.objects.exists()
    assert api("POST", "/projects", {"name": "shop", "source": "https://example.org/shop.git"}).status_code == 201


@pytest.mark.parametrize("source", SSH_SOURCES)
def test_an_ordinary_users_platform_takes_ssh(api: Api, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.setattr(settings, "TENANTRY", replace(settings.TENANTRY, uid_base=None))
    assert api("POST", "/projects", {"name": "shop", "source": source}).status_code == 201


def test_what_new_processes_must_answer_is_changed_and_told(api: Api, project: str) -> None:
    assert api.get("/projects/demo")["warm_paths"] == []
    answer = api("PATCH", "/projects/demo", {"health_path": "/healthz", "warm_paths": ["/", "/search?q=a"]})
    assert answer.status_code == 200
    assert (answer.json()["health_path"], answer.json()["warm_paths"]) == ("/healthz", ["/", "/search?q=a"])
    assert Change.objects.latest("revision").metadata == {"health_path": "/healthz", "warm_paths": ["/", "/search?q=a"]}
    before = Change.objects.count()
    assert api("PATCH", "/projects/demo", {"health_path": "/healthz"}).status_code == 200
    assert Change.objects.count() == before
    assert api("PATCH", "/projects/demo", {"warm_paths": []}).json()["warm_paths"] == []
    assert api("PATCH", "/projects/nothing", {"warm_paths": []}).status_code == 404
    added = api("POST", "/projects", {"name": "shop", "source": "/srv/shop", "warm_paths": ["/basket"]})
    assert added.json()["warm_paths"] == ["/basket"]


@pytest.mark.parametrize("paths", [["basket"], ["/a b"], ["/ä"], ["/a\n"], [""], ["/x" * 251], ["/"] * 21])
def test_a_warm_path_that_cannot_be_asked_is_refused_by_name(api: Api, project: str, paths: list[str]) -> None:
    for method, address, body in (
        ("PATCH", "/projects/demo", {"warm_paths": paths}),
        ("POST", "/projects", {"name": "shop", "source": "/srv/shop", "warm_paths": paths}),
    ):
        response = api(method, address, body)
        assert response.status_code == 422
        assert {error["field"] for error in response.json()["errors"]} == {"warm_paths"}
    assert api.get("/projects/demo")["warm_paths"] == []
