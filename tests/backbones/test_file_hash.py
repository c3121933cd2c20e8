"""Weights in files are identified by what the files hold."""

import hashlib
from pathlib import Path

from vision_peft.backbones.file_hash import hash_weights


def test_a_checkpoint_is_its_content_whatever_it_is_called(tmp_path: Path) -> None:
    for name, content in (("a.pth", b"one"), ("b.pth", b"one"), ("c.pth", b"two")):
        (tmp_path / name).write_bytes(content)
    hashes = [hash_weights("vit_tiny_patch16_224", tmp_path / name) for name in ("a.pth", "b.pth", "c.pth")]
    assert hashes[0] == hashes[1] == hashlib.sha256(b"one").hexdigest()
    assert hashes[2] == hashlib.sha256(b"two").hexdigest()


def test_a_file_that_changed_under_its_name_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(b"one")
    before = hash_weights("vit_tiny_patch16_224", tmp_path / "a.pth")
    (tmp_path / "a.pth").write_bytes(b"three")
    assert hash_weights("vit_tiny_patch16_224", tmp_path / "a.pth") != before


def test_a_local_folder_is_its_config_and_weights(tmp_path: Path) -> None:
    for folder, weights in (("x", b"one"), ("y", b"one"), ("z", b"two")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_bytes(b"{}")
        (tmp_path / folder / "model.safetensors").write_bytes(weights)
    (tmp_path / "y" / "README.md").write_text("not a weight")
    hashes = [hash_weights(f"local-dir:{tmp_path / folder}") for folder in "xyz"]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_name_that_says_which_weights_it_means_needs_no_hash() -> None:
    assert hash_weights("vit_base_patch16_224.augreg_in21k") is None
    assert hash_weights("hf-hub:timm/vit_tiny_patch16_224.augreg_in21k") is None
