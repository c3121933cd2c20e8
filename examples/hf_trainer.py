"""Hugging Face's Trainer with a grafted timm model: a module that returns the loss is all it takes.

Run it by: pip install transformers accelerate, then python examples/hf_trainer.py   (with --tiny a small backbone)
"""

import sys
import tempfile
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments

import vision_peft as vp


class WithLoss(torch.nn.Module):
    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.model(pixel_values)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def measure(outputs: Any) -> dict[str, float]:
    return {"accuracy": float((outputs.predictions.argmax(1) == outputs.label_ids).mean())}


tiny = "--tiny" in sys.argv
name, size = ("vit_tiny_patch16_224", 32) if tiny else ("dinov2_small_pypi", 56)
options: dict[str, Any] = {"embed_dim": 24, "depth": 2, "num_heads": 2} if tiny else {"pretrained": True}
digits: Any = load_digits()
images = torch.tensor(digits.images / 8 - 1).float()[:, None].repeat(1, 3, 1, 1)
images = F.interpolate(images, size=size, mode="bicubic")
data: Any = [{"pixel_values": x, "labels": y} for x, y in zip(images, digits.target, strict=True)]
train, val = (data[:96], data[96:160]) if tiny else (data[:1000], data[1000:1200])

model = vp.attach(vp.create_backbone(name, img_size=size, num_classes=10, **options), vp.LoRA(rank=8))
with tempfile.TemporaryDirectory() as folder:  # of the trainer, which would save the frozen backbone as well
    settings = {"learning_rate": 3e-3, "num_train_epochs": 1 if tiny else 3, "per_device_train_batch_size": 32}
    arguments = TrainingArguments(folder, report_to="none", save_strategy="no", disable_tqdm=True, **settings)
    trainer = Trainer(WithLoss(model), arguments, train_dataset=train, eval_dataset=val, compute_metrics=measure)
    trainer.train()
    print(f"accuracy {trainer.evaluate()['eval_accuracy']:.1%}")
    print("kept:", *sorted(path.name for path in vp.save_adapter(model, f"{folder}/adapter").iterdir()))
