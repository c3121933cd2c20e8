"""One frozen backbone, many tasks: adapters of two methods and two heads answer a mixed batch in one forward.

Run it by: python examples/bank_of_tasks.py   (a minute on a CPU; with --tiny seconds, on a small random backbone)
"""

import sys
import tempfile
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

import vision_peft as vp

tiny = "--tiny" in sys.argv
name, size = ("vit_tiny_patch16_224", 32) if tiny else ("dinov2_small_pypi", 56)
options: dict[str, Any] = {"embed_dim": 24, "depth": 2, "num_heads": 2} if tiny else {"pretrained": True}
digits: Any = load_digits()
images = torch.tensor(digits.images / 8 - 1).float()[:, None].repeat(1, 3, 1, 1)
images = F.interpolate(images, size=size, mode="bicubic")
digit = torch.tensor(digits.target)
tasks = {"digit": (vp.LoRA(rank=4), digit, 10), "parity": (vp.AdaptFormer(bottleneck=8), digit % 2, 2)}
model = vp.create_backbone(name, img_size=size, **options)
test = images[1000:1008]

with tempfile.TemporaryDirectory() as folder:
    for task, (method, labels, classes) in tasks.items():
        vp.replace_head(model, "linear", classes)
        vp.attach(model, method)
        optimizer = torch.optim.AdamW([parameter for _, parameter in vp.tuned_parameters(model)], lr=3e-3)
        for start in range(0, 64 if tiny else 1000, 32):
            loss = F.cross_entropy(model.train()(images[start : start + 32]), labels[start : start + 32])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        vp.save_adapter(model, f"{folder}/{task}")
        vp.detach(model)
    bank = vp.Bank(model)  # its weights exist once, whatever the number of tasks
    for task in tasks:
        bank.add(task, f"{folder}/{task}")
    print(f"{len(bank)} tasks: {', '.join(bank.tasks)}")
    asked = ["digit", "parity"] * 4
    for number, task, logits in zip(digit[1000:1008], asked, bank(test, tasks=asked), strict=True):
        print(f"a {number}: its {task} is {logits.argmax()}, of {len(logits)} classes")
