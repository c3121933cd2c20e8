"""A LightningModule around a grafted model, whose checkpoints hold what was tuned and not the frozen backbone.

Run it by: pip install lightning, then python examples/lightning_module.py   (with --tiny a small random backbone)
"""

import sys
import tempfile
from typing import Any

import lightning
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

import vision_peft as vp


class Tuned(lightning.LightningModule):
    def __init__(self, name: str, **options: Any) -> None:
        super().__init__()
        self.model = vp.attach(vp.create_backbone(name, num_classes=10, **options), vp.LoRA(rank=8))

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def validation_step(self, batch: Any, _: int) -> None:
        self.log("accuracy", (self.model(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW([parameter for _, parameter in vp.tuned_parameters(self.model)], lr=1e-3)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = vp.tuned_state_dict(self.model)  # vp.load_tuned(model, ...) takes it back


tiny = "--tiny" in sys.argv
name, size = ("vit_tiny_patch16_224", 32) if tiny else ("dinov2_small_pypi", 56)
options: dict[str, Any] = {"embed_dim": 24, "depth": 2, "num_heads": 2} if tiny else {"pretrained": True}
digits: Any = load_digits()
images = torch.tensor(digits.images / 8 - 1).float()[:, None].repeat(1, 3, 1, 1)
data = TensorDataset(F.interpolate(images, size=size, mode="bicubic"), torch.tensor(digits.target))
train, val, _ = random_split(data, [96, 64, 1637] if tiny else [1000, 200, 597])

tuned = Tuned(name, img_size=size, **options)
quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
trainer = lightning.Trainer(max_epochs=1 if tiny else 3, **quiet)
trainer.fit(tuned, DataLoader(train, 32, shuffle=True), DataLoader(val, 64))
print(f"accuracy {trainer.callback_metrics['accuracy']:.1%}")
with tempfile.TemporaryDirectory() as folder:
    trainer.save_checkpoint(f"{folder}/tuned.ckpt")
    held = len(torch.load(f"{folder}/tuned.ckpt")["state_dict"])
print(f"a checkpoint holds {held} tensors, of {len(tuned.state_dict())} in the model")
