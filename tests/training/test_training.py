"""What a training does, keeps, refuses and reports."""

import json
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import vision_peft as vp
from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_folder
from vision_peft.results.row import Row, read_row
from vision_peft.tasks.classes import ClassMetrics
from vision_peft.training import build, unread
from vision_peft.training import fit as fit_module
from vision_peft.training import step as step_module
from vision_peft.training import trained as train_module
from vision_peft.training.trained import train
from vision_peft.tuning.frame_attention import FRAMES

Tiny = Callable[..., Config]
Calls = list[tuple[str, int]]


def tensors(config: Config) -> dict[str, torch.Tensor]:
    return load_file(run_folder(config) / "adapter" / "adapter.safetensors")


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Which folder's images were evaluated by whom, in order: ("loop" | "end", images of test among them)."""
    calls: Calls = []

    def watch(module: Any, name: str) -> None:
        real = module.create_eval_loader

        def loader(dataset: Any, *arguments: Any, **keywords: Any) -> Any:
            calls.append((name, sum("/test/" in dataset.path(index) for index in range(len(dataset)))))
            return real(dataset, *arguments, **keywords)

        monkeypatch.setattr(module, "create_eval_loader", loader)

    watch(fit_module, "loop")
    watch(train_module, "end")
    return calls


def test_images_per_second_count_what_went_through(tiny: Tiny) -> None:
    row = train(tiny("recipe.batch_size=200", "recipe.epochs=1")).row  # of 24 images in one update
    assert row.images_per_s is not None
    assert row.step_ms is not None
    assert row.images_per_s * row.step_ms / 1000 == pytest.approx(24)
    assert not row.reused_features
    assert train(tiny("method=linear", "recipe.epochs=1")).row.reused_features


def test_a_run_leaves_its_whole_folder_and_a_row_with_every_field(tiny: Tiny) -> None:
    config = tiny("recipe.lr=1e-2")
    row = train(config, "python tools/train.py recipe.lr=1e-2").row
    folder = run_folder(config)
    assert {path.name for path in folder.iterdir()} - {".lock"} == {
        *("config.yaml", "adapter", "state", "metrics.jsonl", "result.json", "log.txt", "events", "confusion.csv"),
        "data.json",
    }
    data = json.loads((folder / "result.json").read_text())
    assert set(data) == {item.name for item in fields(Row)} - {"extra", "file"}
    unknown = {"top5", "num_frames", "commit", "reason", "tried", "temperature"}  # the last: all of val is right
    assert {name for name, value in data.items() if value is None} <= unknown
    assert (row.n_train, row.n_val, row.n_test, row.img_size, row.epochs) == (24, 24, 24, 32, 2)
    assert row.top1 == read_row(folder / "result.json").top1
    assert sum(map(sum, row.confusion or [])) == 24
    assert list(row.per_class) == ["blue", "green", "red"]
    assert row.adapter_bytes == sum(path.stat().st_size for path in (folder / "adapter").iterdir())
    assert row.backbone == "vit_tiny_patch16_224 (random weights)"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == [*["step"] * 3, "epoch"] * 2 + ["test"]
    info = json.loads((folder / "adapter" / "adapter.json").read_text())
    assert info["class_names"] == ["blue", "green", "red"]
    assert info["input"]["size"] == [32, 32]
    assert "top-1" in (folder / "log.txt").read_text()


def test_the_log_tells_what_became_of_a_checkpoint(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    bare = build.create_model(tiny().backbone, seed=1)
    torch.save({"model": bare.state_dict()}, tmp_path / "weights.pth")
    config = tiny(f"backbone.checkpoint={tmp_path / 'weights.pth'}", "recipe.epochs=1")
    train(config)
    number = len(bare.state_dict())
    assert f"{number} of {number} tensors used" in (run_folder(config) / "log.txt").read_text()
    assert capsys.readouterr().out.count("tensors used") == 1


def test_the_flops_count_attention(tiny: Tiny) -> None:
    row = train(tiny("method=linear", "recipe.epochs=1")).row
    tokens, dim, depth = 5, 24, 2
    block = tokens * (3 * dim * dim + dim * dim + 2 * 4 * dim * dim) + 2 * tokens * tokens * dim
    last = tokens * 2 * dim * dim + (dim * dim + dim * dim + 2 * 4 * dim * dim) + 2 * tokens * dim  # one token asks
    assert row.flops_forward == 2 * (4 * 3 * 16 * 16 * dim + (depth - 1) * block + last + dim * 3)


def test_frozen_tensors_are_bit_identical_after_training_and_tuned_ones_are_not(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Any, dict[str, torch.Tensor]]] = []
    real = build.attach_methods

    def tune(*arguments: Any) -> Any:
        model = real(*arguments)
        seen.append((model, {name: tensor.clone() for name, tensor in model.state_dict().items()}))
        return model

    monkeypatch.setattr(train_module, "attach_methods", tune)
    train(tiny("recipe.frozen_mode=train", "recipe.drop_path=0.1", "recipe.weight_decay=0.1", "recipe.lr=1e-2"))
    ((model, before),) = seen
    tuned = set(vp.tuned_state_dict(model))
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == tuned


@pytest.mark.parametrize(
    ("protocol", "expected", "trained_on"),
    [
        ("val_select", [("loop", 0), ("loop", 0), ("end", 24)], 24),
        ("val_select_retrain", [("loop", 0), ("loop", 0), ("end", 24)], 48),
        ("last_epoch", [("end", 24)], 48),
        ("best_test", [("loop", 24), ("loop", 24), ("end", 24)], 48),
    ],
)
def test_test_is_read_once_at_the_end_by_every_protocol_but_best_test(
    tiny: Tiny, evaluations: Calls, protocol: str, expected: Calls, trained_on: int
) -> None:
    row = train(tiny(f"protocol={protocol}")).row
    assert evaluations == expected
    assert (row.protocol, row.n_train) == (protocol, trained_on)
    assert (row.val_top1 is None) == (protocol in ("last_epoch", "best_test"))


def fake_metrics(top1: float, loss: float = 1.0) -> ClassMetrics:
    return ClassMetrics(top1=top1, top5=None, mean_per_class=top1, per_class={}, pairs=[], loss=loss, images=24)


def with_val(monkeypatch: pytest.MonkeyPatch, scores: list[tuple[float, float]]) -> list[dict[str, torch.Tensor]]:
    """Let val say `scores`; returns the tuned tensors it was asked about."""
    asked: list[dict[str, torch.Tensor]] = []

    def evaluate_heads(model: Any, *_: Any) -> list[ClassMetrics]:
        asked.append({name: tensor.clone() for name, tensor in vp.tuned_state_dict(model).items()})
        return [fake_metrics(*scores[len(asked) - 1])]

    monkeypatch.setattr(fit_module, "evaluate_heads", evaluate_heads)
    return asked


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [
        ([(50, 1), (70, 1), (60, 1)], 1),
        ([(50, 1), (50, 1), (50, 1)], 0),
        ([(50, 1), (50, 0.9), (50, 0.95)], 1),
        ([(10, 1), (20, 1), (30, 1)], 2),
    ],
)
@pytest.mark.parametrize("ema", ["null", "0.5"])
def test_the_adapter_is_that_of_the_epoch_that_val_chose(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, scores: list[tuple[float, float]], chosen: int, ema: str
) -> None:
    asked = with_val(monkeypatch, scores)
    config = tiny("recipe.epochs=3", f"recipe.ema={ema}", "recipe.lr=1e-2")
    row = train(config).row
    kept = tensors(config)
    assert all(torch.equal(kept[name], tensor) for name, tensor in asked[chosen].items())
    assert row.val_top1 == scores[chosen][0]


def test_retraining_lasts_as_many_epochs_as_val_chose(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    with_val(monkeypatch, [(50, 1), (70, 1), (60, 1)])
    config = tiny("recipe.epochs=3", "protocol=val_select_retrain")
    row = train(config).row
    assert [entry["phase"] for entry in row.curve] == ["select"] * 3 + ["retrain"] * 2
    assert row.epochs == 3
    assert row.val_top1 == 70


def test_training_stops_when_val_has_not_improved_for_the_patience(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = with_val(monkeypatch, [(50, 1), (70, 1), (60, 1), (65, 1), (90, 1)])
    row = train(tiny("recipe.epochs=5", "recipe.early_stopping=2")).row
    assert len(asked) == 4
    assert row.val_top1 == 70


def test_parts_of_a_batch_give_the_update_of_the_whole(tiny: Tiny) -> None:
    whole = tiny("method.dropout=0", "recipe.optimizer=sgd", "recipe.lr=0.1")
    parts = tiny("method.dropout=0", "recipe.optimizer=sgd", "recipe.lr=0.1", "recipe.accumulate=4")
    train(whole)
    train(parts)
    for name, tensor in tensors(whole).items():
        torch.testing.assert_close(tensors(parts)[name], tensor, rtol=1e-4, atol=1e-6)


def test_a_set_of_fewer_parts_than_a_batch_has_one_update_an_epoch_of_those_it_has(tiny: Tiny) -> None:
    plain = ["method.dropout=0", "recipe.optimizer=sgd", "recipe.lr=0.1", "recipe.epochs=2"]
    parts = tiny(*plain, "recipe.batch_size=60", "recipe.accumulate=6")  # 24 images are two of six parts of ten
    row = train(parts).row
    assert row.updates == 2
    assert all(entry["train_loss"] > 0 for entry in row.curve)


@pytest.mark.parametrize("part", ["mlp", "attention", "block"])
def test_recomputing_changes_nothing(tiny: Tiny, part: str) -> None:
    plain, recomputed = tiny(), tiny(f"recipe.recompute={part}")
    train(plain)
    train(recomputed)
    for name, tensor in tensors(plain).items():
        assert torch.equal(tensors(recomputed)[name], tensor), name


def test_every_method_trains_in_bfloat16_too(tiny: Tiny) -> None:
    for name in [name for name, method in vp.METHODS.items() if FRAMES not in method().needs]:
        row = train(tiny(f"method={name}", "precision=bf16", "recipe.epochs=1", "recipe.lr=1e-4")).row
        assert row.precision == "bf16"


def test_two_methods_train_together(tiny: Tiny) -> None:
    config = tiny("method=lora", "+method_2=vpt", "recipe.epochs=1")
    row = train(config).row
    assert row.method == "lora+vpt"
    assert {name.split(".")[0] for name in tensors(config)} >= {"blocks", "head"}


def test_an_odd_last_batch_is_mixed_all_the_same(tiny: Tiny) -> None:
    assert train(tiny("recipe.batch_size=50", "recipe.mixup=0.5", "recipe.epochs=1")).row.top1 is not None


def test_layer_decay_slows_the_lower_layers(tiny: Tiny) -> None:
    optimizers: list[Any] = []
    real = step_module.create_optimizer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            step_module, "create_optimizer", lambda *a, **k: optimizers.append(real(*a, **k)) or optimizers[-1]
        )
        train(tiny("method=full", "recipe.layer_decay=0.5", "recipe.epochs=1", "recipe.lr=1e-4"))
    scales = {group["lr_scale"] for group in optimizers[0].param_groups}
    assert scales == {1.0, 0.5, 0.25, 0.125}


def test_a_loss_that_is_not_finite_stops_with_step_and_rate_and_saves_nothing_of_it(tiny: Tiny) -> None:
    config = tiny("recipe.optimizer=sgd", "recipe.lr=1e30", "recipe.warmup_epochs=0", "save_every=1")
    with pytest.raises(
        FloatingPointError,
        match=r"no update of epoch 1/2 was finite|answers on val are NaN or infinite after epoch|no longer finite",
    ):
        train(config)
    for path in (run_folder(config) / "state").glob("step_*/state.pt"):
        state = torch.load(path, weights_only=True)
        assert all(tensor.isfinite().all() for tensor in state["tuned"].values())


def test_a_search_trial_does_not_read_test_and_can_be_completed_later(
    tiny: Tiny, evaluations: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = train(tiny("read_test=false")).row
    assert (row.top1, row.per_class, row.confusion) == (None, {}, None)
    assert row.val_top1 is not None
    assert evaluations == [("loop", 0)] * 2
    monkeypatch.setattr(fit_module, "seed_everything", lambda *_: pytest.fail("it trained again"))
    assert train(tiny()).row.top1 is not None
    assert evaluations == [("loop", 0)] * 2 + [("end", 24)]


@pytest.mark.parametrize("protocol", ["val_select", "val_select_retrain", "last_epoch", "best_test"])
def test_a_dry_run_trains_one_batch_reads_no_test_and_leaves_nothing(
    tiny: Tiny, evaluations: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str], protocol: str
) -> None:
    row = train(tiny("dry_run=true", f"protocol={protocol}")).row
    assert (row.n_train, row.top1) == (8, None)
    assert evaluations == [("loop", 0)]
    assert list(tmp_path.iterdir()) == []
    assert "dry run passed" in capsys.readouterr().out


def test_plain_progress_tells_the_time_left_and_is_sparse(
    tiny: Tiny, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unread, "SHORTEST_ESTIMATE", 0)
    train(tiny())
    out = capsys.readouterr().out
    assert "\r" not in out
    assert "update 1/3" in out
    assert " left" in out
    assert out.count("\ntakes     about ") == 1
    first, last = re.findall(r"^epoch \d/2  train loss .*$", out, re.M)
    assert first.endswith(" s left")
    assert " left" not in last
    assert out.count("update 1/3") + out.count("update 2/3") + out.count("update 3/3") <= 3
