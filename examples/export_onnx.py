"""An adapter as one ONNX file that answers uint8 images without this package, after a comparison with the model.

Run it by: pip install 'vision_peft[export]', then python examples/export_onnx.py   (with --tiny on a small backbone)
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

import vision_peft as vp
from vision_peft.inference.export import export_model

tiny = "--tiny" in sys.argv
name, size = ("vit_tiny_patch16_224", 32) if tiny else ("dinov2_small_pypi", 56)
options: dict[str, Any] = {"embed_dim": 24, "depth": 2, "num_heads": 2} if tiny else {"pretrained": True}

with tempfile.TemporaryDirectory() as folder:
    torch.manual_seed(0)  # an adapter records the seed of random weights
    tuned = vp.attach(vp.create_backbone(name, img_size=size, num_classes=3, **options), vp.AdaptFormer(bottleneck=8))
    vp.save_adapter(tuned, f"{folder}/adapter", class_names=["cat", "dog", "horse"])  # in place of a run
    model = vp.load(f"{folder}/adapter", device="cpu")
    exported = export_model(model, Path(folder, "pets.onnx"), "onnx", preprocessing=True)
    print(f"logits differ from the adapter's by at most {exported.difference:.1e}")
    print("wrote", ", ".join(f"{path.name} ({path.stat().st_size:,} bytes)" for path in exported.files))

    session = onnxruntime.InferenceSession(f"{folder}/pets.onnx")
    (taken,) = session.get_inputs()
    images = np.random.default_rng(0).integers(0, 256, (5, size, size, 3), dtype=np.uint8)
    probabilities = np.asarray(session.run(None, {taken.name: images})[0])
    print("onnxruntime answers", taken.shape, "with", probabilities.shape)
