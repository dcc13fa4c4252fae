"""What happens when a part stops, and what `bin/up` and `tenantry down` promise."""

import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


class Visits:
    """A visitor who asks for a site's page without pause, in a thread, and keeps every answer that was not 200."""

    def __init__(self, platform: Any, hostname: str) -> None:
        self._platform, self._hostname = platform, hostname
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.good = 0
        self.bad: list[str] = []

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                status = self._platform.get(self._hostname).status_code
            except OSError as error:  # httpx's errors are not; those fail the thread and so the test
                status = repr(error)
            except Exception as error:
                status = repr(error)
            if status == 200:
                self.good += 1
            else:
                self.bad.append(str(status))
            time.sleep(0.01)

    def __enter__(self) -> "Visits":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join(30)


def agent_pid(platform: Any) -> int:
    pids = platform.pids("tenantry.node", "run")
    assert pids
    return int(pids[0])


def test_sites_serve_while_the_agent_is_killed_and_it_comes_back(platform: Any) -> None:
    old = agent_pid(platform)
    vassals = platform.pids(".ini")
    with Visits(platform, "alpha.localhost") as visits:
        os.kill(old, signal.SIGKILL)
        platform.eventually(lambda: [pid for pid in platform.pids("tenantry.node", "run") if pid != old])
        platform.create("after-the-kill", "demo")
        platform.delete("after-the-kill")
    assert visits.bad == []
    assert visits.good > 20
    assert set(vassals) <= set(platform.processes()), "the agent starts and adopts; it does not restart sites"


def test_a_change_made_while_the_agent_is_dead_is_applied_when_it_is_back(platform: Any) -> None:
    with platform.api() as api:
        os.kill(agent_pid(platform), signal.SIGKILL)
        made = api.post("/sites", json={"slug": "meanwhile", "project": "demo", "hostnames": ["meanwhile.localhost"]})
        assert made.status_code == 201
        assert api.get("/sites/meanwhile/convergence", params={"wait": 30}).json()["converged"]
    assert platform.get("meanwhile.localhost").status_code == 200
    platform.delete("meanwhile")


def test_a_routing_link_taken_away_by_hand_comes_back(platform: Any) -> None:
    link = platform.home / "run" / "hosts" / "gamma.localhost"
    link.unlink()
    platform.tenantry("site", "restart", "gamma", "--wait")
    assert platform.get("gamma.localhost").status_code == 200
    assert link.is_symlink()


def test_sites_serve_while_control_and_the_jobs_worker_are_down(platform: Any) -> None:
    old = platform.pids("granian")
    assert old
    with Visits(platform, "beta.localhost") as visits:
        for pid in old:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(1)

    def answers() -> bool:
        try:
            with platform.api() as api:
                return bool(api.get("/whoami").status_code == 200)
        except Exception:
            return False

    assert visits.bad == []
    platform.eventually(answers, 40)


def test_up_again_is_fast_and_restarts_nothing(platform: Any) -> None:
    # PostgreSQL's sessions come and go by themselves, and so does what measures a site's files.
    before = {pid: argv for pid, argv in platform.processes().items() if not argv.startswith("postgres: ")}
    time.sleep(1)
    before = {pid: argv for pid, argv in before.items() if pid in platform.processes()}
    seconds = platform.up()
    assert seconds <= 10
    now = platform.processes()
    assert {pid: argv for pid, argv in before.items() if pid not in now} == {}
    assert platform.get("alpha.localhost").status_code == 200


def test_up_puts_another_nginx_in_place_and_visitors_do_not_notice(platform: Any) -> None:
    path = platform.home / "run" / "nginx.pid"
    before, workers = int(path.read_text()), platform.nginx_workers()
    vassals = platform.pids(".ini")
    configuration = platform.home / "etc" / "nginx.conf"
    with Visits(platform, "alpha.localhost") as visits:
        # As if an earlier release had written it: the next up writes its own.
        configuration.write_text(configuration.read_text().replace("keepalive_timeout 65s", "keepalive_timeout 64s"))
        platform.up("--no-demo")
        platform.eventually(
            lambda: int(path.read_text()) != before and not set(workers) & set(platform.nginx_workers())
        )
        master = int(path.read_text())
        os.kill(master, signal.SIGKILL)
        killed = time.monotonic()
        platform.eventually(lambda: int(path.read_text()) != master and platform.nginx_workers())
        took = time.monotonic() - killed
        good = visits.good
        platform.eventually(lambda: visits.good > good + 20)
    assert visits.bad == []
    assert took < 1.5
    assert "65s" in configuration.read_text()
    assert platform.pids(".ini") == vassals


def test_down_and_up_bring_every_site_back_with_its_data(platform: Any) -> None:
    platform.create("survivor", "demo")
    user = "from django.contrib.auth.models import User; "
    create = user + "User.objects.create_user('kept')"
    platform.tenantry("site", "manage", "survivor", "shell", "-c", create)
    media = platform.home / "data" / "survivor" / "media"
    (media / "kept.txt").write_text("kept")
    before = {site["slug"]: site["generation"] for site in platform.json("site", "list")}
    platform.down()
    assert platform.processes() == {}
    seconds = platform.up()
    assert seconds < 30
    assert {site["slug"]: site["generation"] for site in platform.json("site", "list")} == before
    assert platform.get("survivor.localhost").status_code == 200
    count = user + "print('count', User.objects.filter(username='kept').count())"
    assert "count 1" in platform.tenantry("site", "manage", "survivor", "shell", "-c", count)
    assert (media / "kept.txt").read_text() == "kept"
    platform.delete("survivor")


def test_two_homes_do_not_disturb_each_other(platform: Any, another: Any) -> None:
    another.up("--no-demo")
    with another.api() as api:
        assert api.get("/sites").status_code == 200
    assert another.json("site", "list") == []
    assert platform.get("alpha.localhost").status_code == 200
    ours = {pid for pid, argv in platform.processes().items() if not argv.startswith("postgres: ")}
    another.down()
    assert another.processes() == {}
    assert ours <= set(platform.processes())
    assert platform.get("alpha.localhost").status_code == 200


def test_a_port_in_use_is_said_and_nothing_is_left(platform: Any, another: Any) -> None:
    another.http_port = platform.http_port
    done = subprocess.run(
        [
            str(ROOT / "bin/up"),
            "--detach",
            "--no-demo",
            "--home",
            str(another.home),
            "--http-port",
            str(another.http_port),
        ],
        env=another.environment,
        text=True,
        capture_output=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 1
    assert str(another.http_port) in done.stderr + done.stdout
    assert "--http-port" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert another.processes() == {}


@pytest.mark.parametrize("delay", [0.3, 3.0, 7.0])
def test_ctrl_c_during_up_leaves_nothing_running(another: Any, delay: float) -> None:
    up = subprocess.Popen(
        [str(ROOT / "bin/up"), "--no-demo", "--home", str(another.home), "--http-port", str(another.http_port)],
        env=another.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    )
    time.sleep(delay)
    os.killpg(up.pid, signal.SIGINT)  # a terminal's Ctrl-C goes to the whole foreground group
    output, _ = up.communicate(timeout=60)
    assert "Traceback" not in output
    another.eventually(lambda: not another.processes(), 10)
