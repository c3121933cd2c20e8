"""timm's own training parts with a grafted model: optimiser, schedule, mixup and averaged weights, as in its train.py.

Run it by: python examples/timm_train.py   (minutes on a CPU; with --tiny seconds, on a small random backbone)
"""

import sys
from typing import Any

import torch
from sklearn.datasets import load_digits
from timm.data.mixup import Mixup
from timm.loss.cross_entropy import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, ModelEmaV3, accuracy

import vision_peft as vp

tiny = "--tiny" in sys.argv
name, size = ("vit_tiny_patch16_224", 32) if tiny else ("dinov2_small_pypi", 56)
options: dict[str, Any] = {"embed_dim": 24, "depth": 2, "num_heads": 2} if tiny else {"pretrained": True}
end, last = (96, 160) if tiny else (1000, 1200)
digits: Any = load_digits()
images, labels = torch.tensor(digits.images / 8 - 1).float()[:, None].repeat(1, 3, 1, 1), torch.tensor(digits.target)
images = torch.nn.functional.interpolate(images, size=size, mode="bicubic")

model = vp.create_backbone(name, img_size=size, num_classes=10, **options)
vp.attach(model, vp.AdaptFormer(bottleneck=16))  # it stays a timm model; frozen weights have no gradient
optimizer = create_optimizer_v2(model, opt="adamw", lr=2e-3, weight_decay=0.05)
schedule: Any
schedule, epochs = create_scheduler_v2(optimizer, num_epochs=1 if tiny else 5)
mixup, criterion, average = Mixup(0.2, num_classes=10), SoftTargetCrossEntropy(), ModelEmaV3(model, decay=0.95)
for epoch in range(epochs):
    losses = AverageMeter()
    for batch in torch.randperm(end).split(32)[: end // 32]:
        x, y = mixup(images[batch], labels[batch])
        loss = criterion(model.train()(x), y)  # train() leaves the frozen backbone in eval mode
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update(model)
        losses.update(loss.item())
    schedule.step(epoch + 1)
    (top1,) = accuracy(average.module.eval()(images[end:last]), labels[end:last])
    print(f"epoch {epoch + 1}: loss {losses.avg:.3f}, top-1 of the averaged model {top1:.1f} %")
