"""`vision-peft serve` as a user types it."""

import importlib.util
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.examples import list_examples
from support.servers import form, picture, request
from support.tuned_folders import save_tuned

import vision_peft as vp
from vision_peft.cli.main import main
from vision_peft.inference.serve import server as server_module


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save_tuned(tmp_path / "adapter")
    return tmp_path


def test_the_examples_of_the_help_serve_and_stop_with_a_count(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[Any] = []

    class Watched(server_module.Server):
        def run(self, sockets: Any = None) -> None:
            started.append((self, sockets[0].getsockname()[1]))
            super().run(sockets)

    wanted: list[int] = []

    def listen(host: str, port: int) -> socket.socket:
        wanted.append(port)
        return real(host, 0)

    real = server_module.listen
    monkeypatch.setattr(server_module, "Server", Watched)
    monkeypatch.setattr(server_module, "listen", listen)
    first, second = list_examples("serve", **{"flowers=RUN": "flowers=adapter", "cars=ADAPTER": "cars=adapter"})
    for words, tasks in ((first, ["flowers"]), (second, ["flowers", "cars"])):
        started.clear()
        answers: list[Any] = []

        def ask(tasks: list[str] = tasks, answers: list[Any] = answers) -> None:
            while not started:
                time.sleep(0.01)
            ((server, port),) = started
            try:
                body, kind = form([("image", picture()), *(("task", task.encode()) for task in tasks)])
                answers.append(request(port, "/predict", body, content_type=kind))
            finally:
                server.stop()

        asking = threading.Thread(target=ask)
        asking.start()
        assert main(["serve", *words]) == 0
        asking.join()
        ((status, answer),) = answers
        assert (status, [each["task"] for each in answer["answers"]]) == (200, tasks)
        shown = capsys.readouterr().out
        assert f"listening on http://127.0.0.1:{started[0][1]}; Ctrl-C or SIGTERM stops it\n" in shown
        assert "flowers: lora, 3 classes, " in shown
        assert shown.endswith(f"stopped: {len(tasks)} answers, 0 left open\n")
    assert wanted == [8000, 8080]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "a=adapter", "--task", "a=adapter"], "--task a is given twice"),
        (["--task", "a=adapter", "--task", "b=full"], "the adapter in full trained 100 % of the backbone in place"),
        (["--task", "a=adapter", "--admin-token-file", "short"], "short must hold a token of at least 16 printable"),
        (["--task", "a=adapter", "--admin-token-file", "absent"], "[Errno 2] No such file or directory: 'absent'"),
        (["--task", "a=adapter", "--timeout-s", "0"], "--timeout-s must be a number above 0; got 0.0"),
        (["--task", "a=adapter", "--max-body-mb", "999"], "--bodies-mb 200 does not hold one body of 999 MB"),
        (["--task", "a=adapter", "--port", "99999"], "cannot listen on port 99999: wanted 0 to 65535"),
        (["--task", "a=adapter", "--host", "no.such.host."], "cannot listen on no.such.host. port 8000: "),
        (["--task", "a=clips"], "the task a takes clips, and serve reads images: use vision-peft predict"),
        (["--task", "a=adapter", "--most", "0"], "most must be a whole number from 1"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tuned(folder / "full", vp.FullFineTune())
    save_tuned(folder / "clips", num_frames=2)
    (folder / "short").write_text("secret")
    with pytest.raises(SystemExit) as stopped:
        main(["serve", *words])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {message}")


def test_a_taken_port_and_a_missing_extra_are_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with server_module.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit):
            main(["serve", "--task", "a=adapter", "--port", str(port)])
    assert f"error: cannot listen on 127.0.0.1 port {port}: " in capsys.readouterr().err
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else real(name))
    with pytest.raises(SystemExit) as stopped:
        main(["serve", "--task", "a=adapter"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: serve needs uvicorn: pip install 'vision_peft[serve]'\n"
