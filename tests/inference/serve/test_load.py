"""A server as a process of its own: thousands of requests while tasks change, hostile ones, and a stop under load."""

import contextlib
import os
import random
import re
import resource
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from support.hostile_requests import hostile_bodies
from support.servers import as_text, picture, request
from support.tuned_folders import save_tuned

import vision_peft as vp

pytestmark = pytest.mark.slow
TOKEN = "of the one who may change tasks"
METHODS = {
    "lora": vp.LoRA(rank=2),
    "adaptformer": vp.AdaptFormer(bottleneck=4),
    "vpt": vp.VPT(tokens=3, deep=False),
    "ssf": vp.SSF(),
}


class Process:
    """`vision-peft serve` of four tasks; ``answers`` has what each adapter says of each picture."""

    def __init__(self, folder: Path) -> None:
        self.folders = {name: save_tuned(folder / name, method) for name, method in METHODS.items()}
        self.pictures = [as_text(picture(seed)) for seed in range(8)]
        predict = {name: vp.Predictor(path, device="cpu") for name, path in self.folders.items()}
        self.known = {name: [each([picture(seed)])[0] for seed in range(8)] for name, each in predict.items()}
        (folder / "token").write_text(TOKEN)
        tasks = [word for name, path in self.folders.items() for word in ("--task", f"{name}={path}")]
        words = ["serve", *tasks, "--port", "0", "--admin-token-file", str(folder / "token"), "--header-s", "2"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vision_peft", *words, "--max-body-mb", "2", "--timeout-s", "20"],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.lines: list[str] = []
        while not (found := re.search(r"listening on http://127.0.0.1:(\d+)", "".join(self.lines[-1:]))):
            self.lines.append(self.process.stdout.readline())
            assert self.lines[-1], self.process.communicate()
        self.port = int(found[1])

    def is_right(self, answer: dict, number: int, sources: set[str]) -> bool:
        """Whether the labels are those of one of these adapters."""
        given = [(each["label"], each["probability"]) for each in answer["labels"]]
        return any(
            [label for label, _ in given] == [label for label, _ in known]
            and all(abs(value - other) < 2e-5 for (_, value), (_, other) in zip(given, known, strict=True))
            for known in (self.known[source][number] for source in sources)
        )

    def memory(self) -> int:
        """Resident bytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    def end(self) -> str:
        """Wait for the end; what was printed."""
        out, err = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, err
        assert "Traceback" not in err
        return "".join(self.lines) + out


@pytest.fixture
def served(tmp_path):
    process = Process(tmp_path)
    try:
        yield process
    finally:
        process.process.kill()
        process.process.wait()


def test_two_thousand_requests_of_32_clients_are_answered_right_while_tasks_change(served):
    wrong, lost, seconds = [], [], []
    left = list(range(2000))
    done = threading.Event()

    def ask() -> None:
        while left:
            try:
                number = left.pop()
            except IndexError:
                return
            task = random.Random(number).choice([*METHODS])
            start = time.monotonic()
            try:
                status, answer = request(
                    served.port, "/predict", {"image": served.pictures[number % 8], "tasks": [task, "changing"]}
                )
            except OSError as error:
                lost.append(repr(error))
                continue
            seconds.append(time.monotonic() - start)
            if status != 200:
                lost.append(str((status, answer)))
            elif not (
                served.is_right(answer["answers"][0], number % 8, {task})
                and served.is_right(answer["answers"][1], number % 8, set(METHODS))
            ):
                wrong.append(answer)

    def change() -> None:
        for turn in range(10**6):
            if done.is_set():
                return
            source = {"source": str(served.folders[[*METHODS][turn % 4]])}
            for path, method in (("changing", "PUT"), ("passing", "PUT"), ("passing", "DELETE")):
                body = source if method == "PUT" else None
                assert request(served.port, f"/tasks/{path}", body, method, authorization=f"Bearer {TOKEN}")[0] == 200
            changes.append(turn)

    changes: list[int] = []
    first = {"source": str(served.folders["lora"])}
    assert request(served.port, "/tasks/changing", first, "PUT", authorization=f"Bearer {TOKEN}")[0] == 200
    clients = [threading.Thread(target=ask) for _ in range(32)]
    changer = threading.Thread(target=change)
    start = time.monotonic()
    for thread in (*clients, changer):
        thread.start()
    for thread in clients:
        thread.join()
    whole = time.monotonic() - start
    done.set()
    changer.join()
    p50, p95 = statistics.quantiles(seconds, n=20)[9], statistics.quantiles(seconds, n=20)[18]
    _, text = request(served.port, "/metrics")
    batches = {bound: int(count) for bound, count in re.findall(r'batch_images_bucket\{le="(.+?)"\} (\d+)', text)}
    print(
        f"{len(seconds)} answered in {whole:.1f} s, {3 * len(changes)} changes, p50 {1000 * p50:.0f} ms, "
        f"p95 {1000 * p95:.0f} ms, images of a forward (cumulative) {batches}"
    )
    assert (wrong, lost, len(seconds)) == ([], [], 2000)
    assert len(changes) > 3
    assert batches["+Inf"] < 4000 / 3


def test_two_hundred_hostile_requests_are_errors_in_bounded_memory_and_the_next_is_served(served):
    asked = {"image": served.pictures[0], "task": "lora"}
    assert request(served.port, "/predict", asked)[0] == 200
    before, most, statuses = served.memory(), 0, Counter()
    slow = [threading.Thread(target=_send_slowly, args=(served.port, statuses)) for _ in range(20)]
    for thread in slow:
        thread.start()
    for name, data in hostile_bodies(180, seed=1):
        with socket.create_connection(("127.0.0.1", served.port), 30) as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(data)
            answer = b"".join(iter(lambda connection=connection: connection.recv(65536), b""))
        status = re.match(rb"HTTP/1.1 (\d+)", answer)
        assert status is not None, name
        assert 400 <= int(status[1]) < 500, (name, answer[:300])
        statuses[int(status[1])] += 1
        most = max(most, served.memory())
        status, answer = request(served.port, "/predict", asked)
        assert status == 200, name
        assert served.is_right(answer["answers"][0], 0, {"lora"})
    for thread in slow:
        thread.join()
    grown = (most - before) / 2**20
    print(f"statuses {dict(statuses)}, memory grew by {grown:.0f} MB at most")
    assert statuses[408] == 20
    assert sum(statuses.values()) == 200
    assert grown < 150


def _send_slowly(port: int, statuses: Counter) -> None:
    with socket.create_connection(("127.0.0.1", port), 60) as connection:
        answer = b""
        connection.settimeout(0.2)
        for letter in b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" * 10:
            with contextlib.suppress(ConnectionError):
                connection.send(bytes([letter]))
            with contextlib.suppress(TimeoutError, ConnectionError):
                answer += connection.recv(65536)
            if answer:
                break
    assert answer.startswith(b"HTTP/1.1 408 ")
    statuses[408] += 1


@pytest.mark.parametrize("turn", range(3))
def test_sigterm_under_load_loses_no_accepted_request(served, turn):
    results, broken = [], []
    asked = {"image": served.pictures[turn], "tasks": [*METHODS]}

    def ask() -> None:
        while True:
            try:
                status, answer = request(served.port, "/predict", asked)
            except ConnectionRefusedError:
                return
            except OSError as error:
                broken.append(repr(error))
                return
            results.append(
                status == 200 and all(served.is_right(each, turn, {each["task"]}) for each in answer["answers"])
            )

    clients = [threading.Thread(target=ask) for _ in range(32)]
    for client in clients:
        client.start()
    while len(results) < 100:
        time.sleep(0.01)
    served.process.send_signal(signal.SIGTERM)
    for client in clients:
        client.join()
    printed = served.end()
    print(f"{len(results)} answered, {len(broken)} reset while the system stopped listening")
    assert all(results)
    assert f"stopped: {4 * len(results)} answers, 0 left open" in printed
    assert len(broken) <= 1
