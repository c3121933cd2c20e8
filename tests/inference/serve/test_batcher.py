"""The queue in front of a bank: who waits for whom, and who fails with whom."""

import threading

import pytest
import torch
from support.servers import as_text, picture, running

from vision_peft.inference.serve.batcher import Batcher


def test_the_first_picture_of_a_batch_waits_for_others_of_any_task(bank):
    with running(bank, max_batch=2, max_wait_ms=10_000) as server:
        asked = [{"image": as_text(picture()), "task": task} for task in ("a", "darker")]
        clients = [threading.Thread(target=server.ask, args=("/predict", each)) for each in asked]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
    assert (server.service.batch_images.sum, sum(server.service.batch_images.counts)) == (2, 1)
    assert server.service.batch_tasks.sum == 2


def test_a_job_whose_task_is_gone_fails_alone(bank):
    batcher = Batcher(bank, max_batch=2, max_wait_s=10, observe=lambda images, tasks, seconds: None)
    good, bad = (batcher.submit(task, torch.zeros(3, 32, 32)) for task in ("a", "gone"))
    assert good.result(30).task.name == "a"
    with pytest.raises(KeyError, match="the bank has no task gone"):
        bad.result(30)
    batcher.close()
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit("a", torch.zeros(3, 32, 32))
