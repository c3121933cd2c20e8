"""A server of tiny tasks: what it answers, what it refuses, and that it answers what it accepted."""

import base64
import hashlib
import re
import socket
import threading
import time

import pytest
from support.hostile_requests import bomb, deep_bomb, hostile_bodies
from support.servers import as_text, form, picture, post, running

import vision_peft as vp
from vision_peft.inference.serve.page import PAGE, POLICY

TOKEN = "a token of 32 letters, and more ."


@pytest.fixture(scope="module")
def server(bank):
    with running(bank, max_body_mb=2, bodies_mb=20, header_s=0.4, timeout_s=20, token=TOKEN) as server:
        yield server


@pytest.fixture(scope="module")
def expected(folders):
    predict = {name: vp.Predictor(folder, device="cpu") for name, folder in folders.items()}
    return lambda name, image: predict[name](image, top=5)


def labels(answer):
    return [(each["label"], each["probability"]) for each in answer["labels"]]


def close_to(guesses):
    return [(label, pytest.approx(value, abs=2e-5)) for label, value in guesses]


def test_json_and_forms_are_answered_as_the_predictor_answers(server, expected):
    images = [picture(1), picture(2, (64, 20), "JPEG")]
    status, found = server.ask("/predict", {"images": [as_text(image) for image in images], "tasks": ["b", "darker"]})
    pairs = [(answer["image"], answer["task"]) for answer in found["answers"]]
    assert (status, pairs) == (200, [(0, "b"), (0, "darker"), (1, "b"), (1, "darker")])
    for answer in found["answers"]:
        assert labels(answer) == close_to(expected(answer["task"], images[answer["image"]]))
    body, kind = form([("image", images[0]), ("task", b"b"), ("task", b"darker"), ("top", b"1")])
    status, again = server.ask("/predict", body, content_type=kind)
    assert (status, [labels(answer) for answer in again["answers"]]) == (
        200,
        [labels(answer)[:1] for answer in found["answers"][:2]],
    )
    url = f"data:image/png;base64,{as_text(images[0])}"
    assert (
        server.ask("/predict", {"image": url, "task": "b"})[1]["answers"][0]["labels"] == found["answers"][0]["labels"]
    )


@pytest.mark.parametrize("request_", [pytest.param(data, id=name) for name, data in hostile_bodies(40)])
def test_a_hostile_request_gets_an_error_and_the_next_is_served(server, request_):
    answer = server.send(request_)
    assert re.match(rb"HTTP/1.1 (400|403|404|405|413|415|431) ", answer), answer[:200]
    assert b"Traceback" not in answer
    assert b"/work" not in answer
    assert b"/tmp" not in answer
    assert server.ask("/healthz") == (200, {"status": "ok", "tasks": len(server.service.bank)})


@pytest.mark.parametrize("image", [bomb(), deep_bomb()])
def test_a_bomb_is_refused_by_its_header_or_by_what_it_would_inflate_to(server, image):
    status, answer = server.ask("/predict", {"image": as_text(image), "task": "a"})
    assert status == 400
    assert answer["error"].startswith("the image cannot be decoded: ")
    assert "data.max_pixels" not in answer["error"]


def test_a_picture_of_too_many_pixels_is_refused_by_its_header(bank):
    with running(bank, max_pixels=1000) as server:
        status, answer = server.ask("/predict", {"image": as_text(picture(size=(40, 30))), "task": "a"})
        assert (status, "more than max_pixels=1,000 pixels" in answer["error"]) == (400, True)
        assert server.ask("/predict", {"image": as_text(picture(size=(40, 25))), "task": "a"})[0] == 200


def test_slow_headers_and_slow_bodies_are_given_up(server, bank):
    start = time.monotonic()
    assert server.send(b"POST /predict HTTP/1.1\r\nHost: loc").startswith(b"HTTP/1.1 408 ")
    second = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /heal"  # on a connection that was served
    assert re.findall(rb"HTTP/1.1 (\d+)", server.send(second)) == [b"200", b"408"]
    assert server.send(b"") == b""
    assert time.monotonic() - start < 5
    with running(bank, timeout_s=0.3) as impatient:
        answer = impatient.send(post(b"{", length=100))
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"the body did not arrive within 0.3 s" in answer


def test_what_takes_too_long_or_is_too_much_is_refused_and_leaves_nothing(bank):
    asked = {"image": as_text(picture()), "tasks": ["a", "b"]}
    with running(bank, timeout_s=0.4, max_queue=3) as server:
        assert server.ask("/predict", {**asked, "tasks": ["a", "b", "darker"]})[0] == 200
        assert server.ask("/predict", {**asked, "images": [asked["image"]] * 2, "image": asked["image"]})[0] == 400
        many = {"images": [asked["image"]] * 2, "tasks": ["a", "b"]}
        assert server.ask("/predict", many) == (413, {"error": "4 answers at once: at most 3 in one request"})
        found = []
        with bank._lock:
            waiting = threading.Thread(target=lambda: found.append(server.ask("/predict", asked)))
            waiting.start()
            while not server.service.pending:
                time.sleep(0.005)
            assert server.ask("/predict", asked) == (503, {"error": "the queue is full: try again in a moment"})
            waiting.join()
        assert found == [(504, {"error": "no answer within 0.4 s"})]
        assert server.ask("/predict", asked)[0] == 200


def test_tasks_change_by_the_token_alone_and_the_answers_with_them(server, bank, folders, expected):
    image = picture(3)
    asked = {"image": as_text(image), "task": "new"}
    change = {"authorization": f"Bearer {TOKEN}", "method": "PUT"}
    source = {"source": str(folders["a"])}
    assert server.ask("/tasks/new", source, "PUT")[0] == 401
    assert server.ask("/tasks/new", source, "PUT", authorization="Bearer wrong")[0] == 401
    assert server.ask("/tasks/new", method="DELETE")[0] == 401
    assert server.ask("/predict", asked) == (404, {"error": "no task new: there are a, b, darker"})
    status, made = server.ask("/tasks/new", source, **change)
    assert (status, made["name"], made["class_names"]) == (200, "new", ["a", "b", "ü c"])
    assert labels(server.ask("/predict", asked)[1]["answers"][0]) == close_to(expected("a", image))
    assert server.ask("/tasks/new", {"source": str(folders["darker"])}, **change)[1]["version"] > made["version"]
    assert labels(server.ask("/predict", asked)[1]["answers"][0]) == close_to(expected("darker", image))
    status, refused = server.ask("/tasks/new", {"source": "nowhere"}, **change)
    assert (status, refused["error"].startswith("nowhere is not a folder")) == (400, True)
    assert server.ask("/tasks/new", {"folder": "x"}, **change)[0] == 400
    assert labels(server.ask("/predict", asked)[1]["answers"][0]) == close_to(expected("darker", image))
    assert server.ask("/tasks/new", method="DELETE", authorization=f"Bearer {TOKEN}") == (200, {"dropped": "new"})
    assert server.ask("/tasks/new", method="DELETE", authorization=f"Bearer {TOKEN}")[0] == 404
    assert server.ask("/predict", asked)[0] == 404
    assert set(server.service.served) == {task.version for task in bank.tasks.values()}
    with running(bank) as closed:
        assert closed.ask("/tasks/new", source, **change)[0] == 404


def test_a_picture_is_prepared_anew_where_its_task_is_replaced_while_it_waits(bank, folders, expected):
    image, found = picture(4), []
    bank.add("changing", folders["a"])
    try:
        with running(bank) as server:
            asked = {"image": as_text(image), "task": "changing"}
            with bank._lock:
                waiting = threading.Thread(target=lambda: found.append(server.ask("/predict", asked)))
                waiting.start()
                while not server.service._batcher.busy:
                    time.sleep(0.005)
                bank.replace("changing", folders["darker"])
            waiting.join()
    finally:
        bank.drop("changing")
    ((status, answer),) = found
    assert (status, labels(answer["answers"][0])) == (200, close_to(expected("darker", image)))


def test_nothing_tells_a_path_of_the_disk(server, folders):
    for path in (
        "/",
        "/tasks",
        "/metrics",
        "/healthz",
        "/nothing",
        "/tasks/a",
        "/static/../../etc/passwd",
        "//etc/passwd",
    ):
        _, answer = server.ask(path)
        assert str(folders["a"].parent) not in str(answer)
        assert "root:" not in str(answer)


def test_the_page_loads_nothing_and_its_policy_allows_what_it_holds(server):
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    head, _, body = answer.partition("\r\n\r\n")
    assert body == PAGE
    assert f"content-security-policy: {POLICY}" in head
    for tag in ("script", "style"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", body, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in POLICY
    assert POLICY.startswith("default-src 'none'; ")
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", body) == []
    assert re.findall(r"\son\w+=|style=|javascript:", body) == []


def test_metrics_count_what_happened(bank):
    with running(bank, max_batch=4) as server:
        server.ask("/predict", {"image": as_text(picture()), "tasks": ["a", "b"]})
        server.ask("/predict", {"image": "x", "task": "a"})
        status, text = server.ask("/metrics")
    assert status == 200
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert values['vision_peft_requests_total{path="/predict",status="200"}'] == "1"
    assert values['vision_peft_requests_total{path="/predict",status="400"}'] == "1"
    assert values['vision_peft_answers_total{task="a"}'] == values['vision_peft_answers_total{task="b"}'] == "1"
    assert values['vision_peft_batch_images_bucket{le="4"}'] == values["vision_peft_batch_images_count"]
    assert float(values["vision_peft_batch_images_sum"]) == 2
    assert values["vision_peft_pending_answers"] == "0"
    assert values["vision_peft_tasks"] == "3"


def test_clients_get_right_answers_while_tasks_come_change_and_go(bank, folders, expected):
    images = [picture(seed) for seed in range(4)]
    known = {name: [close_to(expected(name, image)) for image in images] for name in ("a", "darker")}
    wrong, left, replaced = [], list(range(120)), []
    bank.add("changing", folders["a"])

    def ask():
        while left:
            number = left.pop() % 4
            asked = {"image": as_text(images[number]), "tasks": ["a", "changing"]}
            status, answer = server.ask("/predict", asked)
            first, second = (labels(each) for each in answer["answers"])
            if status != 200 or first != known["a"][number] or second not in [known[name][number] for name in known]:
                wrong.append((status, answer))

    def change():
        while left:
            for path, name in (("changing", "darker"), ("changing", "a"), ("passing", "b")):
                body, headers = {"source": str(folders[name])}, {"authorization": f"Bearer {TOKEN}"}
                replaced.append(server.ask(f"/tasks/{path}", body, "PUT", **headers)[0])
            replaced.append(server.ask("/tasks/passing", None, "DELETE", **headers)[0])

    try:
        with running(bank, token=TOKEN) as server:
            threads = [threading.Thread(target=work) for work in (*[ask] * 6, change)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        bank.drop("changing")
    assert wrong == []
    assert set(replaced) == {200}
    assert server.service.batch_images.sum >= 240  # more where a picture had to be prepared anew
    assert sum(server.service.batch_images.counts) < 200


def test_a_stop_under_load_answers_what_was_accepted(bank, expected):
    image, results, resets = picture(5), [], []
    known = close_to(expected("a", image))

    def ask_until_refused():
        while True:
            try:
                status, answer = server.ask("/predict", {"image": as_text(image), "task": "a"})
            except ConnectionRefusedError:
                return
            except ConnectionResetError as error:  # it came in the microseconds in which the system stops listening
                resets.append(error)
                return
            results.append((status, labels(answer["answers"][0]) == known))

    with running(bank) as server:
        clients = [threading.Thread(target=ask_until_refused) for _ in range(6)]
        for client in clients:
            client.start()
        while len(results) < 20:
            time.sleep(0.01)
        server.stop()
        for client in clients:
            client.join()
    assert set(results) == {(200, True)}
    assert server.service.images.values["a",] == len(results)
    assert len(resets) <= 1
