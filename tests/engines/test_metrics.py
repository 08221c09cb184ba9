"""The metrics of a real daemon: they tell what the logs tell, whoever is killed meanwhile."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from fusevol.linux import mounts
from fusevol.metrics.catalog import BOUNDS_S, METRICS, MetricKind
from fusevol.record.record import EVENTS
from tests.engines.daemon import Daemon, plain_daemon
from tests.otlp_receiver import Receiver, attributes, receiver
from tests.prometheus import free_port, prometheus
from tests.scraping import Scrape, Scraper, parse
from tests.served import fusevol, kill_mount, needs_root, runs, wait_until
from tests.turns import ONE_PLUGIN

pytestmark = [needs_root, ONE_PLUGIN]

MONITORING = Path(__file__).parents[2] / "docs/monitoring"


class Metered(NamedTuple):
    """A daemon that is scraped and sends to a collector."""

    daemon: Daemon
    scraper: Scraper
    collector: Receiver


@pytest.fixture(scope="module")
def metered() -> Iterator[Metered]:
    port = free_port()
    with receiver() as collector:
        config = (
            f'idle_timeout = 0.2\n[metrics]\nlisten = "127.0.0.1:{port}"\n'
            f'otlp = "{collector.url}"\ninterval = 1\n'
        )
        with plain_daemon(config) as daemon:
            yield Metered(daemon, Scraper(port), collector)


@contextmanager
def volume(daemon: Daemon, name: str, **options: str) -> Iterator[Path]:
    """A volume that is served inside the block."""
    source = daemon.directory / name
    source.mkdir()
    with daemon.client() as client:
        client.create(name, {"source": str(source), **options})
        try:
            yield Path(client.mount(name, "test").mountpoint)
        finally:
            client.unmount(name, "test")
        client.remove(name)


def work(directory: Path) -> None:
    """Do things that succeed and things that fail."""
    for number in range(20):
        path = directory / f"file{number}"
        path.write_bytes(b"x" * 1000)
        assert len(path.read_bytes()) == 1000
    (directory / "dir").mkdir()
    for _ in range(3):
        with pytest.raises(FileExistsError):
            (directory / "dir").mkdir()
        with pytest.raises(FileNotFoundError):
            (directory / "none").stat()
    os.rmdir(directory / "dir")
    os.listdir(directory)


def test_the_numbers_are_those_of_the_log(metered: Metered) -> None:
    daemon, scraper, collector = metered
    with volume(daemon, "counted") as directory:
        work(directory)
        wait_until(lambda: _all_closed(daemon, "counted"), "release of all files")
        held = os.open(directory / "file0", os.O_RDONLY)
        values = scraper.scrape()
        records = daemon.records("counted")
        size = daemon.log_path("counted").stat().st_size
        os.close(held)
        assert values("fusevol_open_files", volume="counted") == 1

        logged = Counter(r["op"] for r in records if r["op"] not in EVENTS)
        assert values.by("op", "fusevol_operations_total", volume="counted") == logged
        failed = Counter(r["result"] for r in records if r["op"] == "lookup") - Counter(["ok"])
        failed.pop("ok", None)
        assert failed["ENOENT"] >= 3
        errors = values.by("errno", "fusevol_operation_errors_total", op="lookup", volume="counted")
        assert errors == failed
        for op in logged:
            name = "fusevol_operation_duration_seconds"
            buckets = values.by("le", f"{name}_bucket", op=op, volume="counted")
            assert len(buckets) == len(BOUNDS_S) + 1
            assert buckets["+Inf"] == values(f"{name}_count", op=op, volume="counted") == logged[op]
            below_1ms = sum(r["op"] == op and r["us"] < 1024 for r in records)
            assert buckets["0.001024"] == below_1ms
            took = sum(r["us"] for r in records if r["op"] == op)
            assert values(f"{name}_sum", op=op, volume="counted") == pytest.approx(took / 1e6)
        assert values("fusevol_read_bytes_total", volume="counted") == 20_000
        assert values("fusevol_written_bytes_total", volume="counted") == 20_000
        assert values("fusevol_log_records_total", volume="counted") == len(records)
        assert values("fusevol_log_bytes_total", volume="counted") == size
        assert values("fusevol_known_inodes", volume="counted") >= 20
        assert values("fusevol_up", volume="counted") == 1
        assert values("fusevol_volumes", state="serving") == 1
        for process in ("keeper", "worker"):
            memory = values(
                "fusevol_process_resident_memory_bytes", process=process, volume="counted"
            )
            assert 1 << 20 < memory < 1 << 30
        free = os.statvfs(daemon.directory).f_bavail * os.statvfs(daemon.directory).f_frsize
        assert values("fusevol_log_free_bytes", volume="counted") == pytest.approx(free, rel=0.05)

        text = scraper.get("application/openmetrics-text;version=1.0.0")
        assert "fusevol_operations" in parse(text, openmetrics=True)
        checked = subprocess.run(
            ["promtool", "check", "metrics"], input=values.text, capture_output=True, check=False
        )
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")

        sent = len(collector.requests)
        wait_until(lambda: len(collector.requests) > sent + 1, "metrics at the collector")
        _compare(collector, scraper.scrape())
    assert not scraper.scrape().has("fusevol_up", volume="counted")


def _all_closed(daemon: Daemon, name: str) -> bool:
    done = Counter(r["op"] for r in daemon.records(name))
    return done["open"] + done["create"] == done["release"] and (
        done["opendir"] == done["releasedir"]
    )


def _compare(collector: Receiver, values: Scrape) -> None:
    """Check that the collector has the numbers of a volume that is at rest."""
    metrics = collector.metrics()
    known = {metric.otel_name: metric for metric in METRICS}
    assert metrics.keys() <= known.keys()
    assert collector.resource().items() >= {"service.name": "fusevol"}.items()
    assert {"service.version", "host.name"} <= collector.resource().keys()
    for name in ("fusevol.operations", "fusevol.read", "fusevol.known.inodes"):
        metric, sent = known[name], metrics[name]
        is_counter = metric.kind is MetricKind.COUNTER
        points = (sent.sum if is_counter else sent.gauge).data_points
        assert points
        for point in points:
            assert point.as_int == values(metric.name, **attributes(point))
            assert point.start_time_unix_nano < point.time_unix_nano
            assert (point.start_time_unix_nano > 0) == is_counter
    duration = metrics["fusevol.operation.duration"]
    assert duration.unit == "s"
    assert metrics["fusevol.operations"].sum.is_monotonic
    for point in duration.histogram.data_points:
        name = known["fusevol.operation.duration"].name
        assert point.count == sum(point.bucket_counts)
        assert point.count == values(f"{name}_count", **attributes(point))
        assert point.sum == values(f"{name}_sum", **attributes(point))
        assert tuple(point.explicit_bounds) == BOUNDS_S
        below = values(f"{name}_bucket", le="0.001024", **attributes(point))
        assert sum(point.bucket_counts[: BOUNDS_S.index(0.001024) + 1]) == below


def test_counters_never_fall_when_worker_and_keeper_are_killed(metered: Metered) -> None:
    daemon, scraper, _ = metered
    with volume(daemon, "killed") as directory:
        work(directory)
        before = scraper.scrape()
        keeper, worker = daemon.inspect("killed")["keeper"], daemon.inspect("killed")["worker"]
        # While there is no worker, the keeper has the counters, and the other way round.
        with _stopped(keeper):
            os.kill(worker, signal.SIGKILL)
            wait_until(lambda: not runs(worker), "end of the worker")
            alone = scraper.scrape()
            assert _fallen(before, alone) == []
            assert alone("fusevol_up", volume="killed") == 0
        work(directory)
        between = scraper.scrape()
        assert _fallen(alone, between) == []
        assert between("fusevol_worker_restarts_total", volume="killed") == 1
        assert between("fusevol_up", volume="killed") == 1
        with _stopped(daemon.inspect("killed")["worker"]):
            os.kill(keeper, signal.SIGKILL)
            wait_until(lambda: not runs(keeper), "end of the keeper")
            alone = scraper.scrape()
            assert _fallen(between, alone) == []
        wait_until(lambda: daemon.inspect("killed")["keeper"] not in (0, keeper), "next keeper")
        work(directory)
        after = scraper.scrape()
        assert _fallen(between, after) == []
        written = "fusevol_written_bytes_total"
        assert after(written, volume="killed") == 3 * before(written, volume="killed")
        assert after("fusevol_up", volume="killed") == 1


@contextmanager
def _stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _fallen(earlier: Scrape, later: Scrape) -> list[str]:
    # The time of a process ends with it.
    return [name for name in earlier.fallen(later) if name != "fusevol_process_cpu_seconds_total"]


def test_mounts_beside_the_daemon_are_told_apart_and_dead_ones_are_down(
    metered: Metered, tmp_path: Path
) -> None:
    daemon, scraper, _ = metered
    (tmp_path / "source").mkdir()
    places = [tmp_path / name for name in ("one", "two")]
    env = {**os.environ, **daemon.env}
    with ExitStack() as stack:
        for place, name in zip(places, ("same", "two"), strict=True):
            place.mkdir()
            log = place.with_suffix(".log")
            fusevol("mount", tmp_path / "source", place, "--name", name, "--log", log, env=env)
            stack.callback(fusevol, "unmount", "--lazy", place, env=env)
        directory = stack.enter_context(volume(daemon, "same"))
        (directory / "file").write_text("text")
        (places[0] / "file").write_text("longer text")
        written = scraper.scrape().by("volume", "fusevol_written_bytes_total")
        names = ["same", f"same@{places[0]}", "two"]
        assert written == dict(zip(names, (4, 11, 0), strict=True))

        status = json.loads(fusevol("status", "--json", env=env).stdout)
        [dead] = [one for one in status if one["mountpoint"] == str(places[1])]
        kill_mount(dead["pid"], dead["worker"])
        values = scraper.scrape()
        up = values.by("volume", "fusevol_up")
        assert up == dict(zip(names, (1, 1, 0), strict=True))
        assert not values.has("fusevol_written_bytes_total", volume=names[2])


def test_sinks_are_told_by_volume(metered: Metered, tmp_path: Path) -> None:
    daemon, scraper, _ = metered
    path = tmp_path / "taken.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        thread = threading.Thread(target=_take_all, args=(listening,), daemon=True)
        thread.start()
        works, broken = f"unix:{path}", f"unix:{tmp_path}/nobody.sock"
        with volume(daemon, "shipped", sinks=f"{works}+{broken}") as directory:
            work(directory)

            def all_is_sent() -> bool:
                values = scraper.scrape()
                records = values("fusevol_log_records_total", volume="shipped")
                name = "fusevol_log_sink_sent_records_total"
                return values(name, sink=works, volume="shipped") >= records > 0

            wait_until(all_is_sent, "records at the sink")
            values = scraper.scrape()
            up = values.by("sink", "fusevol_log_sink_up", volume="shipped")
            assert up == {works: 1, broken: 0}
            behind = values.by("sink", "fusevol_log_sink_behind_records", volume="shipped")
            assert behind[works] <= 5 < 100 < behind[broken]
            assert values("fusevol_log_size_bytes", volume="shipped") > 0
            assert values.has(
                "fusevol_process_cpu_seconds_total", process="agent", volume="shipped"
            )


def test_a_full_log_shows_in_what_is_lost_and_what_is_free(
    metered: Metered, tmp_path: Path
) -> None:
    daemon, scraper, _ = metered
    (tmp_path / "small").mkdir()
    mounts.mount("tmpfs", str(tmp_path / "small"), "tmpfs", 0, "size=64k")
    try:
        with volume(daemon, "full", log=str(tmp_path / "small/log")) as directory:
            before = scraper.scrape()
            assert 0 < before("fusevol_log_free_bytes", volume="full") <= 65536
            for _ in range(1000):
                (directory / "none").exists()
            after = scraper.scrape()
            assert after("fusevol_log_free_bytes", volume="full") == 0
            lost = after("fusevol_log_lost_records_total", volume="full")
            kept = after("fusevol_log_records_total", volume="full")
            done = after.by("op", "fusevol_operations_total", volume="full")
            events = 1  # the mount itself
            assert lost > 100
            assert kept + lost == sum(done.values()) + events
    finally:
        mounts.umount(str(tmp_path / "small"), mounts.MNT_DETACH)


def _take_all(listening: socket.socket) -> None:
    try:
        connection, _ = listening.accept()
    except OSError:
        return
    with connection:
        while connection.recv(1 << 16):
            pass


def test_a_collector_that_is_down_costs_nothing_and_gets_the_numbers_later(
    metered: Metered,
) -> None:
    daemon, scraper, collector = metered
    collector.status = 400
    refused = collector.refused
    try:
        wait_until(lambda: collector.refused > refused, "a refusal")
        with volume(daemon, "later") as directory:
            work(directory)
            assert scraper.scrape()("fusevol_written_bytes_total", volume="later") == 20_000
            collector.status = 200
            sent = len(collector.requests)
            wait_until(lambda: len(collector.requests) > sent + 1, "metrics at the collector")
            points = collector.metrics()["fusevol.written"].sum.data_points
            assert [p.as_int for p in points if attributes(p) == {"volume": "later"}] == [20_000]
    finally:
        collector.status = 200
    assert daemon.messages().count(f"{collector.url} does not accept metrics") == 1
    assert daemon.messages().count(f"{collector.url} accepts metrics again") == 1
    assert "Traceback" not in daemon.messages()


def test_the_dashboard_and_the_alerts_find_what_they_ask_for(
    metered: Metered, tmp_path: Path
) -> None:
    daemon, scraper, _ = metered
    dashboard = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    with (
        volume(daemon, "shown", sinks=f"unix:{tmp_path}/nobody.sock") as directory,
        prometheus(tmp_path, scraper.port, MONITORING / "alerts.yml") as asked,
    ):
        work(directory)
        wait_until(lambda: asked.query("count_over_time(fusevol_log_sink_up[1m]) > 2"), "scrapes")
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                expression = (
                    target["expr"].replace("$__rate_interval", "30s").replace("$__range", "30s")
                ).replace("$volume", "shown").replace("$op", "write|lookup|mkdir")  # fmt: skip
                assert "$" not in expression
                assert asked.query(expression), (panel["title"], expression)
        for variable in dashboard["templating"]["list"][1:]:
            selector, label = re.fullmatch(
                r"label_values\((.+), (\w+)\)", variable["definition"]
            ).groups()  # type: ignore[union-attr]
            series = asked.query(selector.replace("$volume", "shown"))
            assert all(label in one["metric"] for one in series)
            assert series
        labels = scraper.scrape().labels()
        for expression in asked.expressions():
            for name, matchers in re.findall(r"(fusevol_\w+)(\{.*?\})?", expression):
                used = re.findall(r"(\w+)[=!]~?\"", matchers)
                assert set(used) <= labels[name], expression
        wait_until(lambda: asked.alerts()["FusevolSinkDown"] == "pending", "the alert of the sink")
        assert "firing" not in asked.alerts().values()


def test_containers_do_not_reach_the_endpoint(metered: Metered) -> None:
    _, scraper, _ = metered
    code = f"import socket; socket.create_connection(('127.0.0.1', {scraper.port}), 5)"
    subprocess.run([sys.executable, "-c", code], check=True)
    # A container has a network of its own.
    isolated = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", code], capture_output=True, check=False
    )
    assert isolated.returncode == 1
    assert b"unreachable" in isolated.stderr


def test_the_daemon_ends_while_it_waits_for_a_collector() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with plain_daemon(f'[metrics]\notlp = "http://127.0.0.1:{port}"\n') as daemon:
            connection, _ = silent.accept()
            with connection:
                assert connection.recv(4) == b"POST"
                began = time.monotonic()
                daemon.stop()
                assert time.monotonic() - began < 8
                daemon.start()


def test_what_cannot_be_is_said_at_once(tmp_path: Path) -> None:
    refused = fusevol("serve", "--check", "--metrics", "0.0.0.0:10469", check=False)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "set a metrics.token_file" in refused.stderr
    # As if it were not installed.
    (tmp_path / "opentelemetry.py").write_text("")
    config = tmp_path / "fusevol.toml"
    config.write_text('[metrics]\notlp = "http://127.0.0.1:1"\n[docker]\nenabled = false\n')
    env = {f"FUSEVOL_{n}_DIRECTORY": str(tmp_path / n) for n in ("STATE", "RUNTIME", "LOG")}
    env = {**os.environ, **env, "PYTHONPATH": str(tmp_path)}
    lacking = fusevol("serve", "--config", config, check=False, env=env)
    assert lacking.returncode == 5
    assert "pip install 'fusevol[otel]'" in lacking.stderr
