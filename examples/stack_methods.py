"""Methods stack on one model, are counted apart, detached exactly, and folded into weights that timm loads alone.

Run it by: python examples/stack_methods.py   (seconds; with --tiny on a small random backbone)
"""

import sys
from typing import Any

import timm
import torch

import vision_peft as vp

tiny = "--tiny" in sys.argv
name, size = ("vit_tiny_patch16_224", 32) if tiny else ("dinov2_small_pypi", 56)
options: dict[str, Any] = {"embed_dim": 24, "depth": 2, "num_heads": 2} if tiny else {"pretrained": True}
images = torch.rand(4, 3, size, size)
model: Any = vp.create_backbone(name, img_size=size, num_classes=10, **options).eval()
weights = {key: tensor.clone() for key, tensor in model.state_dict().items()}

vp.attach(model, vp.AdaptFormer(bottleneck=8))
vp.attach(model, vp.VPT(tokens=5))
print("AdaptFormer and VPT:", vp.count_parameters(model))
vp.detach(model)
same = all(torch.equal(tensor, weights[key]) for key, tensor in model.state_dict().items())
print("detached, every weight is what it was:", same)

vp.attach(model, vp.LoRA(rank=4, blocks="last 2"))
vp.attach(model, vp.SSF())
print("LoRA in the last 2 blocks and SSF:", vp.count_parameters(model))
with torch.inference_mode():
    for _, parameter in vp.tuned_parameters(model):  # in place of a training
        parameter.add_(0.02 * torch.randn_like(parameter))
    tuned = model.eval()(images)
    vp.merge(model)
    arguments = {key: value for key, value in options.items() if key != "pretrained"}
    architecture = model.pretrained_cfg["architecture"]
    plain = timm.create_model(architecture, num_classes=10, img_size=size, **arguments).eval()
    plain.load_state_dict(model.state_dict())  # strictly: the merged model has timm's names and no other
    print(f"merged and loaded by timm alone, logits differ by {(plain(images) - tuned).abs().max():.1e}")
