"""What only one corner of the package needs is imported there and only there."""

import json
import subprocess
import sys

CORNERS = (
    "av",
    "decord",
    "hydra",
    "matplotlib",
    "omegaconf",
    "onnx",
    "optuna",
    "pytorchvideo",
    "scipy",
    "sklearn",
    "submitit",
    "tensorboard",
    "torchcodec",
    "torchmetrics",
)

USE = """
import json, sys
import torch
import vision_peft as vp

model = vp.create_backbone("vit_tiny_patch16_224", img_size=32, num_classes=3)
vp.attach(model, vp.AdaptFormer(bottleneck=4))
model(torch.zeros(1, 3, 32, 32))
vp.save_adapter(model, "adapter")
vp.detach(model)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def test_the_library_loads_no_corner(tmp_path):
    done = subprocess.run([sys.executable, "-c", USE], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(CORNERS) & set(json.loads(done.stdout.splitlines()[-1])) == set()
