"""Clips (B C T H W) on an image backbone: ST-Adapter sees across time which way a digit moves.

Run it by: python examples/video_clips.py   (minutes on a CPU; with --tiny seconds, on a small random backbone)
"""

import sys
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

import vision_peft as vp

tiny = "--tiny" in sys.argv
name, size = ("vit_tiny_patch16_224", 32) if tiny else ("dinov2_small_pypi", 56)
options: dict[str, Any] = {"embed_dim": 24, "depth": 2, "num_heads": 2} if tiny else {"pretrained": True}
digits: Any = load_digits()
pictures, frames = torch.tensor(digits.images / 16).float(), 4
small = F.interpolate(F.pad(pictures, (8, 8, 4, 4))[:, None], size=size, mode="bicubic")[:, 0]  # on a dark field


def move(numbers: range) -> tuple[torch.Tensor, torch.Tensor]:
    """Digits that move to the left (0) or to the right (1): clips (B 3 T H W) and labels."""
    labels = torch.tensor([number % 2 for number in numbers])
    shifts = [[(2 * label - 1) * frame * (size // 14) for frame in range(frames)] for label in labels.tolist()]
    clips = [torch.stack([small[n].roll(s, 1) for s in shift]) for n, shift in zip(numbers, shifts, strict=True)]
    return torch.stack(clips)[:, None].repeat(1, 3, 1, 1, 1), labels


model = vp.create_backbone(name, img_size=size, num_frames=frames, num_classes=2, **options)
vp.attach(model, vp.STAdapter(width=16 if tiny else 96))
optimizer = torch.optim.AdamW([parameter for _, parameter in vp.tuned_parameters(model)], lr=1e-3)
for start in range(0, 64 if tiny else 960, 16):
    clips, labels = move(range(start, start + 16))
    loss = F.cross_entropy(model.train()(clips), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
clips, labels = move(range(1000, 1032 if tiny else 1128))
with torch.inference_mode():
    accuracy = (model.eval()(clips).argmax(1) == labels).float().mean()
print(f"loss {loss:.3f}; which way {len(clips)} other digits move: {accuracy:.1%} right")
