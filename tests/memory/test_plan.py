"""`memory=...` from what is typed to the files of a run: what is chosen, said, kept and refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.forked import run_tool
from support.mask_files import write_depths, write_set
from support.tiny_run import tiny_config

import vision_peft as vp
from vision_peft.config.errors import ConfigError
from vision_peft.config.flags import write_memory_as_key
from vision_peft.config.memory_size import read_memory_size
from vision_peft.config.run_id import run_folder
from vision_peft.distributed.device import Compute
from vision_peft.memory import plan, predict
from vision_peft.memory.predict import Choice, MemoryOfTraining
from vision_peft.memory.sizes import total_memory
from vision_peft.results.row import read_row
from vision_peft.training.trained import train

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def bare_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Count what a training adds, not what the process of the tests holds."""
    monkeypatch.setenv("VISION_PEFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(predict, "_measure_base", lambda device: 0)
    monkeypatch.setattr(predict, "return_freed_memory", lambda: None)
    monkeypatch.setattr(plan, "peak_memory_mb", lambda device: 0.5)


def adapter(folder: Path) -> bytes:
    return (folder / "adapter" / "adapter.safetensors").read_bytes()


def chosen(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "memory.json").read_text())


@pytest.mark.parametrize("text", ["8GB", "8 gb", "8000MB", "7.5GiB", "50%"])
def test_sizes_are_read_in_all_units(tiny, text: str) -> None:
    expected = {"8GB": 8e9, "8 gb": 8e9, "8000MB": 8e9, "7.5GiB": 7.5 * 2**30, "50%": 500}
    assert read_memory_size(tiny(f"memory={text}").memory, 1000) == expected[text]
    assert total_memory(CPU) > 10**8


@pytest.mark.parametrize("text", ["8", "0.5", "0GB", "-1GB", "8TB", "120%", "a lot", "8GB8GB"])
def test_what_is_not_a_size_is_refused(tiny, text: str) -> None:
    hint = f", which has no unit: give {text}GB" if text in ("8", "0.5") else ""
    with pytest.raises(ConfigError) as caught:
        tiny(f"memory={text}")
    wanted = "memory must be a size such as 8GB, 8GiB, 8000MB or 50% (of what the device has)"
    assert caught.value.problems == [f"{wanted}; got {text}{hint}"]


def test_the_flag_is_the_key() -> None:
    assert write_memory_as_key(["--memory", "8GB", "seed=1"]) == ["memory=8GB", "seed=1"]
    assert write_memory_as_key(["seed=1", "--memory=50%"]) == ["seed=1", "memory=50%"]
    for words in (["--memory"], ["--memory="], ["--memory", "--help"]):
        with pytest.raises(ConfigError, match="--memory needs a size: give --memory 8GB"):
            write_memory_as_key(words)


def test_enough_memory_changes_nothing_and_the_row_is_the_same(tiny, photos: Path, tmp_path: Path) -> None:
    plain, limited = tiny("method=lora"), tiny_config(photos, tmp_path / "other", "method=lora", "memory=50%")
    assert run_folder(limited).name == run_folder(plain).name
    one, other = train(plain), train(limited)
    assert adapter(one.folder) == adapter(other.folder)
    assert one.row.setting == other.row.setting
    assert not (one.folder / "memory.json").exists()
    assert chosen(other.folder)["accumulate"] == 1


def test_little_memory_recomputes_where_parts_would_draw_other_numbers_and_gives_the_same_bits(
    tiny, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """AdaptFormer has dropout: a batch in parts would be another training."""
    words = ["method=adaptformer", "recipe.batch_size=24", "backbone.kwargs.depth=12", "recipe.epochs=1"]
    one = train(tiny(*words))
    limited = tiny_config(photos, tmp_path / "other", *words, "memory=50%")
    needed = train(limited).folder
    step = chosen(needed)["predicted_bytes"]
    config = tiny_config(photos, tmp_path / "less", *words, f"memory={step / 1e6 - 0.01:.2f}MB")
    capsys.readouterr()
    other = train(config)
    found = chosen(other.folder)
    assert (found["accumulate"], found["draws"]) == (1, True)
    assert found["recompute"] != "none"
    assert adapter(one.folder) == adapter(other.folder)
    assert one.row.setting == other.row.setting
    said = capsys.readouterr().out
    assert f"recipe.accumulate=1, recipe.recompute={found['recompute']}, fp32; predicted peak " in said
    assert "peak memory: 0 MB measured, " in said


@pytest.mark.parametrize("words", [["method=adaptformer"], ["method=bitfit", "recipe.mixup=0.8"]])
def test_parts_that_draw_other_numbers_are_another_setting_and_a_precision_too(tiny, monkeypatch, words) -> None:
    monkeypatch.setattr(plan, "choose", lambda limit, choices, *_: (Choice(4, "block", "bf16"), PREDICTION))
    trained = train(tiny(*words, "memory=1GB", "recipe.epochs=1"))
    settings = trained.row.settings or {}
    assert settings["recipe.accumulate"] == 4
    assert "recipe.recompute" not in settings
    assert (settings["precision"], trained.row.precision) == ("bf16", "bf16")


PREDICTION = predict.Prediction(0, 0, 1000, 0, 0)


def test_parts_that_change_nothing_but_rounding_keep_the_setting(
    tiny, photos: Path, tmp_path: Path, monkeypatch
) -> None:
    plain = train(tiny("method=lora", "recipe.epochs=1"))
    monkeypatch.setattr(plan, "choose", lambda limit, choices, *_: (Choice(2, "mlp", "fp32"), PREDICTION))
    other = train(tiny_config(photos, tmp_path / "other", "method=lora", "recipe.epochs=1", "memory=1GB"))
    assert chosen(other.folder)["draws"] is False
    assert other.row.setting == plain.row.setting
    torch.testing.assert_close(*(vp.tuned_state_dict(each.model)["head.weight"] for each in (plain, other)))


def test_a_run_keeps_what_its_first_start_chose(tiny, photos: Path, tmp_path: Path, monkeypatch) -> None:
    stopped = ["method=adaptformer", "recipe.batch_size=8", "save_every=1"]
    monkeypatch.setattr(plan, "choose", lambda limit, choices, *_: (Choice(2, "mlp", "fp32"), PREDICTION))
    whole = train(tiny(*stopped, "memory=1GB"))
    part = tiny_config(photos, tmp_path / "other", *stopped, "memory=1GB", "max_time=0.00001")
    with pytest.raises(BaseException, match="max_time"):
        train(part)
    monkeypatch.setattr(plan, "choose", lambda *_: pytest.fail("chosen anew"))
    for memory in (["memory=2GB"], []):
        config = tiny_config(photos, tmp_path / "other", *stopped, *memory)
        assert adapter(train(config).folder) == adapter(whole.folder)
        (run_folder(config) / "result.json").unlink()


def test_a_limit_below_the_smallest_is_one_sentence_with_ways_out(tiny) -> None:
    smallest = r"the smallest that works here is about \d+ MB \(a batch in \d parts, recipe.recompute=\w+, "
    with pytest.raises(ValueError, match=rf"memory=0.05MB: {smallest}\w+\).*; give as much, a smaller backbone.img_s"):
        train(tiny("method=lora", "memory=0.05MB"))
    with pytest.raises(ValueError, match=rf"{smallest}fp32\).*; give as much, precision=auto, a smaller backbone"):
        train(tiny("method=lora", "memory=0.05MB", "precision=fp32"))


def test_what_was_too_large_on_this_machine_is_not_tried_again(tiny, photos: Path, tmp_path: Path, monkeypatch) -> None:
    words = ["method=lora", "recipe.batch_size=24", "recipe.epochs=1", "memory=1GB"]
    monkeypatch.setattr(plan, "peak_memory_mb", lambda device: 2000.0 if calls.pop() else 0.0)
    calls = [True, False]  # before the run, and at its end
    first = train(tiny(*words))
    assert chosen(first.folder)["items"] == 24
    calls[:] = [False, False]
    again = train(tiny_config(photos, tmp_path / "again", *words))
    assert chosen(again.folder)["items"] == 12


def test_a_device_without_memory_for_a_part_gets_a_smaller_one() -> None:
    model: Any = vp.attach(vp.create_backbone("vit_tiny_patch16_224", embed_dim=24, depth=1, num_classes=3), vp.LoRA())
    memory = MemoryOfTraining(model, make_recipe(), Compute(CPU, "fp32"), (3, 224, 224), 2, 1)
    assert memory.survives(Choice(1, "mlp", "fp32"))

    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    memory._train = fail  # type: ignore[method-assign]
    assert not memory.survives(Choice(1, "mlp", "fp32"))
    assert "Recomputed" not in type(model.blocks[0]).__name__
    assert all(parameter.grad is None for parameter in model.parameters())


def make_recipe() -> Any:
    from vision_peft.config.schema import Recipe

    return Recipe(batch_size=4)


def test_a_model_is_left_as_it_was_measured() -> None:
    model: Any = vp.create_backbone("vit_tiny_patch16_224", embed_dim=24, depth=4, num_classes=3)
    vp.replace_head(vp.attach(model, vp.AdaptFormer()), "batchnorm_linear", 3)
    vp.train_mode(model)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes, random = [module.training for module in model.modules()], torch.get_rng_state()
    memory = MemoryOfTraining(model, make_recipe(), Compute(CPU, "fp32"), (3, 224, 224), 2, 1)
    plain, recomputed = (memory.predict(Choice(1, part, "fp32")) for part in ("none", "block"))
    halves, half = (memory.predict(Choice(parts, "none", "fp32")) for parts in (2, 4))
    assert plain.step > recomputed.step
    assert plain.step > halves.step > half.step
    assert memory.predict(Choice(1, "none", "bf16")).step < plain.step
    assert memory.draws
    assert plain.states == 3 * sum(p.numel() * 4 for p in model.parameters() if p.requires_grad)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert type(model.blocks[0]).__name__ == "Block[AdaptFormer]"


@pytest.mark.parametrize("damage", ["{", "[]", '{"accumulate": 1}'])
def test_a_damaged_choice_of_a_run_is_named(tiny, tmp_path: Path, damage: str) -> None:
    (tmp_path / "memory.json").write_text(damage)
    with pytest.raises(ValueError, match=r"memory.json .*; overwrite=true starts the run over"):
        plan.plan_memory(tiny(), torch.nn.Identity(), Compute(CPU, "fp32"), {}, 1, tmp_path)


def test_a_user_types_it(tmp_path: Path, photos: Path) -> None:
    words = ["backbone=timm", "backbone.name=vit_tiny_patch16_224", "backbone.pretrained=false", "backbone.img_size=32"]
    words += ["backbone.kwargs.depth=2", "backbone.kwargs.embed_dim=24", "recipe.epochs=1", "device=cpu", "method=lora"]
    words += ["data=folder", f"data.root={photos}", "workers=0"]
    done = run_tool("train.py", tmp_path, *words, "--memory", "50%")
    assert done.returncode == 0, done.stderr
    assert "memory=50%: recipe.accumulate=1, recipe.recompute=none, fp32; predicted peak " in done.stdout
    assert " measured, " in done.stdout
    (row,) = [read_row(path) for path in tmp_path.rglob("result.json")]
    assert "memory=50%" in row.command
    done = run_tool("train.py", tmp_path, *words, "seed=1", "--memory=20MB")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: memory=20MB: the smallest that works here is about ")
    assert not list(tmp_path.rglob("*seed1"))


@pytest.mark.parametrize(("name", "head"), [("segmentation", "seg_linear"), ("depth", "seg_upernet")])
def test_a_training_on_masks_is_planned_as_well(photos: Path, tmp_path: Path, name: str, head: str) -> None:
    write = write_set if name == "segmentation" else write_depths
    root = write(tmp_path / "masks", {"train": 8, "val": 2, "test": 2}, (32, 32))
    words = [f"data={name}", f"data.root={root}", f"recipe.head={head}", "memory=1GB", "recipe.epochs=1"]
    options = ["recipe.head_options={layers: 2}"] if head == "seg_upernet" else []
    config = tiny_config(photos, tmp_path / "runs", *words, *options)
    folder = train(config).folder
    assert 0 < chosen(folder)["predicted_bytes"] < 1e9
