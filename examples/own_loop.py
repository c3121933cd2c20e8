"""A training loop of your own: attach LoRA, train what is tuned, save an adapter of a few kB, load it again.

Run it by: python examples/own_loop.py   (minutes on a CPU; with --tiny seconds, on a small random backbone)
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
images, labels = torch.tensor(digits.images / 8 - 1).float()[:, None].repeat(1, 3, 1, 1), torch.tensor(digits.target)
images = F.interpolate(images, size=size, mode="bicubic")
end, last = (96, 160) if tiny else (1000, 1200)  # of the images to train on, and of val behind them

torch.manual_seed(0)  # an adapter records the seed of random weights
model = vp.create_backbone(name, img_size=size, num_classes=10, **options)
vp.attach(model, vp.LoRA(rank=8))  # freezes the backbone, adds LoRA to q and v; the head trains too
optimizer = torch.optim.AdamW([parameter for _, parameter in vp.tuned_parameters(model)], lr=1e-3)
for epoch in range(1 if tiny else 3):
    model.train()  # the frozen backbone stays in eval mode
    for batch in torch.randperm(end).split(32):
        loss = F.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        logits = model.eval()(images[end:last])
    print(f"epoch {epoch + 1}: loss {loss:.3f}, accuracy {(logits.argmax(1) == labels[end:last]).float().mean():.1%}")
with tempfile.TemporaryDirectory() as folder:
    again = vp.load(vp.save_adapter(model, folder), device="cpu")  # builds the backbone that the adapter records
with torch.inference_mode():
    print("the loaded adapter gives the same logits:", torch.equal(again(images[end:last]), logits))
