"""Where blocks below all that trains are frozen, a training on what they give learns what it learns on images."""

import errno
import json
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support.killed import killed_at
from support.tiny_run import left_behind
from torch import nn

from vision_peft.config.errors import ConfigError
from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_folder, setting_fields
from vision_peft.data.loading.kept_rows import RowsInFile
from vision_peft.training import progress as progress_module
from vision_peft.training import trained as train_module
from vision_peft.training.trained import train

Tiny = Callable[..., Config]
LAST = ["method.blocks=last 1", "recipe.lr=1e-2", "recipe.epochs=3"]
FILE = ["cache_mb=0", "reuse_file_mb=1"]
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def first_block(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Batch sizes that went through the patch embedding, and so through the first block."""
    from timm.layers import PatchEmbed

    sizes: list[int] = []
    real = PatchEmbed.forward
    monkeypatch.setattr(PatchEmbed, "forward", lambda self, x: sizes.append(len(x)) or real(self, x))
    return sizes


def log(config: Config) -> str:
    return (run_folder(config) / "log.txt").read_text()


def losses(config: Config) -> list[float]:
    curve = json.loads((run_folder(config) / "result.json").read_text())["curve"]
    return [entry[key] for entry in curve for key in ("train_loss", "val_loss")]


def check_the_same(reused: Config, plain: Config) -> None:
    """Losses of every epoch to 1e-6, tuned tensors as far as rounding goes."""
    kept, computed = train(reused).row, train(plain).row
    assert (kept.reused_features, computed.reused_features) == (True, False)
    assert losses(reused) == pytest.approx(losses(plain), abs=1e-6)
    assert kept.flops_forward == computed.flops_forward
    ours, theirs = (load_file(run_folder(c) / "adapter" / "adapter.safetensors") for c in (reused, plain))
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        ["method=lora"],
        ["method=adaptformer", "method.dropout=0.3", "recipe.accumulate=2", "recipe.ema=0.9"],
        ["method=partial", "recipe.drop_path=0.2", "recipe.head=batchnorm_linear"],
        ["method=lora", "recipe.head=attentive", "recipe.head_options.queries=4", "recipe.batch_size=5"],
    ],
    ids=lambda settings: settings[0],
)
def test_the_last_block_learns_the_same_with_and_without(tiny: Tiny, settings: list[str]) -> None:
    check_the_same(tiny(*settings, *LAST), tiny(*settings, *LAST, "reuse_features=false", folder="plain"))


def test_so_it_does_over_packed_weights(tiny: Tiny) -> None:
    pytest.importorskip("torchao", reason="torchao, of the extra quant, is not installed")
    settings = ["method=lora", "backbone_dtype=int8", *LAST]
    check_the_same(tiny(*settings), tiny(*settings, "reuse_features=false", folder="plain"))


def test_two_heads_learn_the_same_behind_a_frozen_backbone(tiny: Tiny) -> None:
    settings = ["method=linear", "backbone.name=deit_tiny_distilled_patch16_224", "recipe.lr=1e-2"]
    check_the_same(tiny(*settings), tiny(*settings, "reuse_features=false", folder="plain"))


def test_in_bf16_the_rounding_of_autocast_is_kept(tiny: Tiny) -> None:
    settings = ["method=lora", "precision=bf16", *LAST]
    check_the_same(tiny(*settings), tiny(*settings, "reuse_features=false", folder="plain"))


def test_frozen_blocks_see_every_image_once_and_test_at_the_end(tiny: Tiny, first_block: list[int]) -> None:
    config = tiny("method=lora", *LAST)
    train(config)
    # blank images, train, val, val again for the temperature, test, and the one image whose FLOPs are counted
    assert sum(first_block) == 2 + 24 + 24 + 24 + 24 + 1
    assert "block 0 is frozen: what it makes of 48 images was computed once, as float32, 0.0 MB in" in log(config)


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        ([], True),
        (["recipe.label_smoothing=0.1", "recipe.class_weights=balanced"], True),
        (["method.blocks=all"], False),
        (["method.blocks=first 1"], False),
        (["recipe.augment=flip"], False),
        (["recipe.mixup=0.2"], False),
        (["recipe.frozen_mode=train", "recipe.drop_path=0.1"], False),
        (["+method_2=vpt"], False),
        (["reuse_features=false"], False),
    ],
)
def test_blocks_are_left_out_where_they_are_frozen_and_images_never_change(
    tiny: Tiny, settings: list[str], same: bool
) -> None:
    config = tiny("method=lora", "method.blocks=last 1", "recipe.epochs=1", "read_test=false", *settings)
    assert train(config).row.reused_features is same
    assert ("frozen:" in log(config)) is same
    assert "computed in every epoch" not in log(config)


def test_what_does_not_fit_is_said_with_the_ways_out_and_training_goes_on(tiny: Tiny) -> None:
    config, plain = tiny("method=lora", *LAST, "cache_mb=0"), tiny("method=lora", *LAST, "reuse_features=false")
    assert not train(config).row.reused_features
    left = left_behind(run_folder(config))
    assert (
        "features are computed in every epoch: the tokens of 48 images take 0 MB, more than the 0 MB of cache_mb=0: "
        "keep them in a file (reuse_file_mb=1), or in half of it in memory (reuse_dtype=bf16 cache_mb=1)\n"
    ) in log(config)
    shutil.rmtree(run_folder(config))
    train(plain)
    assert left == left_behind(run_folder(plain))


def test_a_file_holds_what_memory_does_not_and_is_gone_at_once(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, seen = tmp_path / "scratch", []
    folder.mkdir()
    real = RowsInFile.write

    def write(self: RowsInFile, items: Any, rows: Any) -> None:
        seen.append((self.path.parent, self.path.exists()))
        real(self, items, rows)

    monkeypatch.setattr(RowsInFile, "write", write)
    memory, file = tiny("method=lora", *LAST), tiny("method=lora", *LAST, *FILE, folder="file")
    scratch = tiny("method=lora", *LAST, *FILE, f"reuse_folder={folder}", folder="scratch_run")
    for config in (memory, file, scratch):
        assert train(config).row.reused_features
        assert list(run_folder(config).glob("kept-*")) == []
    assert left_behind(run_folder(memory)) == left_behind(run_folder(file)) == left_behind(run_folder(scratch))
    assert seen == [(run_folder(file), False)] * 2 + [(folder, False)] * 2
    assert ", in a file of " in log(file)
    assert ", in a file of " not in log(memory)


def test_a_full_disk_is_found_before_or_while_it_is_written_and_training_goes_on(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tiny("method=lora", *LAST, "reuse_features=false", folder="plain")
    train(plain)
    small, full = (tiny("method=lora", *LAST, *FILE, folder=name) for name in ("small", "full"))
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 0, 10**6))
        train(small)

    opened, real = [], train_module.fit

    def write(rows: RowsInFile, *_: Any) -> None:
        opened.append(rows)
        raise OSError(errno.ENOSPC, "No space left on device")

    def fit(*arguments: Any) -> Any:
        assert [rows._file.closed for rows in opened] == [True]  # an open file would keep the disk full
        return real(*arguments)

    monkeypatch.setattr(RowsInFile, "write", write)
    monkeypatch.setattr(train_module, "fit", fit)
    train(full)
    for config, words in ((small, "0 MB would leave too little of the 1 MB that"), (full, "No space left on device")):
        assert left_behind(run_folder(config)) == left_behind(run_folder(plain))
        assert list(run_folder(config).glob("kept-*")) == []
        line = next(line for line in log(config).splitlines() if "features are computed in every epoch" in line)
        assert words in line
        assert line.endswith("; give reuse_folder, a folder on a disk with room")


@pytest.mark.parametrize("settings", [[], FILE], ids=["memory", "file"])
def test_a_killed_run_resumes_bit_for_bit(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, settings: list[str]) -> None:
    monkeypatch.setattr(progress_module, "SHORTEST_BETWEEN_EPOCHS_SECONDS", 0)
    changes = ["method=lora", "method.dropout=0.3", "save_every=2", *LAST, *settings]
    whole, killed = tiny(*changes, folder="whole"), tiny(*changes, folder="killed")
    train(whole)
    killed_at((5, 0), killed)
    assert list(run_folder(killed).glob("kept-*")) == []
    train(killed)
    assert left_behind(run_folder(killed)) == left_behind(run_folder(whole))


def test_bf16_where_it_is_asked_for_is_another_setting_and_stays_near(tiny: Tiny) -> None:
    rounded, exact = tiny("method=lora", *LAST, "reuse_dtype=bf16"), tiny("method=lora", *LAST)
    assert run_folder(rounded) != run_folder(exact)
    assert setting_fields(rounded)["reuse_dtype"] == "bf16"
    assert run_folder(tiny("method=lora", *LAST, *FILE, "reuse_folder=/tmp")) == run_folder(exact)
    train(rounded)
    train(exact)
    assert "as bfloat16" in log(rounded)
    assert losses(rounded) == pytest.approx(losses(exact), rel=0.02)
    assert losses(rounded) != losses(exact)


def test_tokens_of_an_attentive_head_are_exact_where_that_is_asked_for(tiny: Tiny) -> None:
    settings = ["method=linear", "recipe.head=attentive", "recipe.head_options.queries=4", "recipe.lr=1e-2"]
    exact, plain = tiny(*settings, "reuse_dtype=exact"), tiny(*settings, "reuse_features=false", folder="plain")
    check_the_same(exact, plain)


def test_with_an_undecodable_image_the_loop_decides_as_ever(tiny: Tiny) -> None:
    config = tiny("method=lora", *LAST, *FILE, "max_bad_fraction=0.1")
    root = Path(config.data.root)  # type: ignore[attr-defined]
    victim = sorted((root / "train" / "red").iterdir())[0]
    whole = Image.open(victim).copy()
    victim.write_bytes(b"<html>")
    try:
        row = train(config).row
    finally:
        whole.save(victim)
    assert not row.reused_features
    assert "features are computed in every epoch: an image cannot be decoded" in log(config)
    assert list(run_folder(config).glob("kept-*")) == []


def test_the_settings_are_checked(tiny: Tiny) -> None:
    for override, message in {
        "reuse_dtype=fp8": "reuse_dtype must be one of auto, exact, bf16; got 'fp8'",
        "reuse_file_mb=-1": "reuse_file_mb must be at least 0, got -1",
    }.items():
        with pytest.raises(ConfigError) as caught:
            tiny(override)
        assert message in str(caught.value)


def test_a_model_that_cannot_go_on_from_tokens_is_told_and_trained(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    from timm.models.vision_transformer import VisionTransformer

    real = VisionTransformer.forward_features

    def twice(self: Any, x: Any, **kwargs: Any) -> Any:
        return nn.functional.relu(real(self, x, **kwargs)) + real(self, x, **kwargs)

    monkeypatch.setattr(VisionTransformer, "forward_features", twice)
    config = tiny("method=lora", *LAST)
    assert not train(config).row.reused_features
    assert "every epoch: the blocks of this VisionTransformer do not give one tensor with rows for" in log(config)
