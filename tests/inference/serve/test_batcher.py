"""The queue in front of a bank: who waits for whom, and who fails with whom."""

import time

import pytest
import torch

from vision_peft.inference.serve.batcher import Batcher


def test_the_first_picture_of_a_batch_waits_for_others_of_any_task(bank):
    seen = []
    batcher = Batcher(bank, max_batch=2, max_wait_s=10, observe=lambda *figures: seen.append(figures[:2]))
    first = batcher.submit("a", torch.zeros(3, 32, 32))
    time.sleep(0.2)
    second = batcher.submit("darker", torch.zeros(3, 32, 32))
    assert [first.result(30).task.name, second.result(30).task.name] == ["a", "darker"]
    batcher.close()
    assert seen == [(2, 2)]


def test_a_job_whose_task_is_gone_fails_alone(bank):
    batcher = Batcher(bank, max_batch=2, max_wait_s=10, observe=lambda images, tasks, seconds: None)
    good, bad = (batcher.submit(task, torch.zeros(3, 32, 32)) for task in ("a", "gone"))
    assert good.result(30).task.name == "a"
    with pytest.raises(KeyError, match="the bank has no task gone"):
        bad.result(30)
    batcher.close()
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit("a", torch.zeros(3, 32, 32))
