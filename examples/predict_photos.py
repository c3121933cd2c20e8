"""From a folder of photos to answers: train on it as the command line does, then ask for labels and features.

Run it by: python examples/predict_photos.py   (a minute on a CPU; with --tiny seconds, on a small random backbone)
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import vision_peft as vp
from vision_peft.training import compose_config, train

tiny = "--tiny" in sys.argv
backbone = ["backbone=timm", "backbone.name=vit_tiny_patch16_224", "backbone.pretrained=false", "backbone.img_size=32"]
backbone += ["backbone.kwargs={depth: 2, embed_dim: 24, num_heads: 2}"]
backbone = [*backbone, "recipe.epochs=1"] if tiny else ["backbone=dinov2_small_pypi"]
generator = np.random.default_rng(0)

with tempfile.TemporaryDirectory() as folder:
    for number in range(120):  # in place of your photos: one folder a class
        name = ("red", "green", "blue")[number % 3]
        pixels = generator.integers(0, 160, (48, 64, 3), dtype=np.uint8)
        pixels[..., number % 3] += 95
        path = Path(folder, "photos", name, f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    data = ["data=folder", f"data.root={folder}/photos", f"output_dir={folder}/runs"]
    trained = train(compose_config([*data, *backbone, "method=lora", "workers=0"]))

    predict = vp.Predictor(trained.folder, device="cpu")
    photos = sorted(Path(folder, "photos").rglob("*.png"))[::40]
    for photo, answers in zip(photos, predict(photos, top=2), strict=True):
        print(photo.parent.name, "is", ", ".join(f"{label} {share:.0%}" for label, share in answers))
    print("features:", tuple(predict.features(photos).shape))
