"""A real Prometheus scrapes a real server of two ranks, and answers every query of cluster/dashboard.json."""
import contextlib
import http.client
import json
import math
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.parse

import pytest
from conftest import ROOT, SMOLLM2, TANDEM, run

CACHE = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
PROMETHEUS = shutil.which("prometheus") or os.path.join(CACHE, "tandem/prometheus")
LONG = "Tell a story. " * 30  # more than a block of KV, so that it is found in the cache the second time


def queries():
    """(panel, expression) of the dashboard, its variables replaced as Grafana does."""
    dashboard = json.loads((ROOT / "cluster/dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"].replace("$instance", ".*").replace("$__rate_interval", "10s")


def ask(address, method, path, body=None):
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request(method, path, body and json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def values(address, expression):
    """Of each series that Prometheus gives; those that are no number are left out: nothing happened in the time it looks at."""
    with contextlib.suppress(ConnectionRefusedError):
        status, text = ask(address, "GET", "/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
        if status == 503:
            return []  # it still starts
        answer = json.loads(text)
        assert status == 200 and answer["status"] == "success", (expression, text)
        found = [float(series["value"][1]) for series in answer["data"]["result"]]
        return [value for value in found if not math.isnan(value)]
    return []


@pytest.fixture
def prometheus(tmp_path):
    """prometheus(target) gives the address of one that scrapes it each second."""
    assert os.path.exists(PROMETHEUS), f"{PROMETHEUS} is missing: run tests/run, which fetches it"
    processes = []

    def start(target):
        config = {"global": {"scrape_interval": "1s"},
                  "scrape_configs": [{"job_name": "tandem", "static_configs": [{"targets": [target]}]}]}
        (tmp_path / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = "127.0.0.1:%d" % probe.getsockname()[1]
        with open(tmp_path / "prometheus.log", "w") as log:
            processes.append(subprocess.Popen(
                [PROMETHEUS, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data",
                 f"--web.listen-address={address}"], stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        return address

    yield start
    for process in processes:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def ask_everything(address):
    """Two chats with the same beginning, one of them streamed, and an error."""
    chat = {"messages": [{"role": "user", "content": LONG}], "max_tokens": 8, "temperature": 0}
    for more in ({}, {"stream": True}):
        status, text = ask(address, "POST", "/v1/chat/completions", chat | more)
        assert status == 200, text
    assert ask(address, "POST", "/v1/chat/completions", {"messages": "none"})[0] == 400


def test_prometheus_answers_every_query_of_the_dashboard(start_server, prometheus, tmp_path):
    server = start_server(TANDEM, "serve", SMOLLM2, "-n", 2, "--listen", "tcp://127.0.0.1:*", "--http", "127.0.0.1:0")
    target = re.search(r"for clients of HTTP: http://(\S+)/v1", "".join(server.log))[1]
    address = prometheus(target)
    missing = dict.fromkeys(queries())
    assert len(missing) > 20
    end = time.monotonic() + 60
    # Rates are of what happens between scrapes: so it goes on until all are there.
    while missing and time.monotonic() < end:
        ask_everything(target)
        time.sleep(0.2)
        missing = [query for query in missing if not values(address, query[1])]
    assert not missing, (missing, (tmp_path / "prometheus.log").read_text()[-3000:])
    for name in ("time_to_first_token_seconds_count", "generation_tokens_total", "prefix_cache_hits_total",
                 'request_errors_total{code="invalid_argument"}', "http_connections", "engine_up",
                 'allreduce_seconds_total{rank="0"}', 'allreduce_seconds_total{rank="1"}'):
        found = values(address, f"tandem:{name}")
        assert len(found) == 1 and found[0] > 0, (name, found)
    assert set(names_of(target)) == dashboard_names(), "the dashboard has all figures, and none that are not there"
    status = json.loads(run([TANDEM, "status", "--connect", server.endpoint, "--json"]).stdout)
    assert all(rank["reduce_seconds"] > 0 for rank in status["ranks"])
    assert status["http"]["address"] == target and status["http"]["requests"] >= 4 and status["http"]["connections"] >= 1
    assert " all-reduce\n" in run([TANDEM, "status", "--connect", server.endpoint]).stdout
    assert server.stop() == 0, server.rest_of_log()


def names_of(target):
    """Names of all figures, without what makes a series of a histogram."""
    return re.findall(r"^# TYPE (\S+)", ask(target, "GET", "/metrics")[1], re.MULTILINE)


def dashboard_names():
    found = {name for _, query in queries() for name in re.findall(r"tandem:\w+", query)}
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in found}
