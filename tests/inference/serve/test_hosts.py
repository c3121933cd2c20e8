"""Under which names a server may be asked, and how it prints what it counted."""

import pytest
from support.servers import Running

from vision_peft.cli.main import main
from vision_peft.inference.serve.app import LOCAL_HOSTS, choose_hosts
from vision_peft.inference.serve.limits import Limits
from vision_peft.inference.serve.metrics import Counter, Gauge, Histogram, format_metrics


def test_further_names_join_those_of_loopback_whatever_their_case(bank):
    server = Running(bank, Limits(), hosts=["Photos.Example.ORG"])
    try:
        for host in ("127.0.0.1", f"localhost:{server.port}", "LOCALHOST", "[::1]:80", "photos.example.org"):
            assert server.ask("/healthz", host=host)[0] == 200, host
        assert server.ask("/healthz", host="PHOTOS.example.org:443")[0] == 200
        status, answer = server.ask("/healthz", host="evil.example.org")
        assert status == 403
        assert answer["error"] == (
            "this server is localhost, but the request is for evil.example.org (serve --allowed-host adds a name)"
        )
    finally:
        server.stop()


def test_any_name_is_taken_elsewhere_unless_some_are_given():
    assert choose_hosts("127.0.0.1", []) == LOCAL_HOSTS
    assert choose_hosts("LocalHost", []) == LOCAL_HOSTS
    assert choose_hosts("0.0.0.0", []) is None
    assert choose_hosts("10.0.0.7", ["A.b"]) == (*LOCAL_HOSTS, "10.0.0.7", "a.b")


@pytest.mark.parametrize("name", ["http://a.org", "a.org:80", "a.org/x", "bücher.de", "[::1", ""])
def test_a_name_that_no_request_can_be_for_is_refused(tmp_path, capsys, name):
    with pytest.raises(SystemExit) as end:
        main(["serve", "--task", f"a={tmp_path}", "--allowed-host", name])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: --allowed-host {name}: wanted the name or address alone")


@pytest.mark.parametrize("threads", ["-1", "0", "many"])
def test_threads_are_a_number_of_at_least_one(tmp_path, capsys, threads):
    with pytest.raises(SystemExit) as end:
        main(["serve", "--task", f"a={tmp_path}", f"--threads={threads}"])
    assert end.value.code == 2
    assert f"--threads: must be a whole number of at least 1, got {threads}" in capsys.readouterr().err


def test_counts_keep_all_their_digits():
    counter, seconds = Counter("things_total", "Things."), Histogram("seconds", "Seconds.", [1.0])
    counter.add(count=1_234_567)
    for value in (1234567.25, 0.5):
        seconds.observe(value)
    lines = format_metrics(counter, Gauge("bytes", "Bytes.", lambda: 98_765_432), seconds).splitlines()
    for line in ("things_total 1234567", "bytes 98765432", "seconds_sum 1234567.75", 'seconds_bucket{le="1"} 1'):
        assert f"vision_peft_{line}" in lines
