"""k-NN against votes counted one by one; what it keeps, saves and takes off; how a run chooses k."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.block_inputs import snapshot
from support.families import images, randomise_tuned
from support.families import tiny as make
from torch import Tensor

import vision_peft as vp
from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_folder
from vision_peft.formats import read_adapter_info
from vision_peft.training.trained import train
from vision_peft.tuning.backbone import classifier_names
from vision_peft.tuning.head_kinds import Neighbours
from vision_peft.tuning.neighbours import NeighbourHead

Tiny = Callable[..., Config]
SOME = ["vit", "siglip", "deit_distilled", "frames", "tubelet", "swin", "swin_v2_cr", "beit"]


def samples(model: Any, batches: int = 3) -> list[tuple[Tensor, Tensor]]:
    """Batches of four images of classes 0 to 4."""
    return [(images(model, 4, seed=10 + i), torch.tensor([i, (i + 1) % 5, 2, 4 - i])) for i in range(batches)]


def count_votes(feature: Tensor, bank: Tensor, labels: Tensor, classes: int, k: int, temperature: float) -> Tensor:
    """Shares of votes for one feature, image by image."""
    cosines = [float(feature @ other / feature.norm() / other.norm()) for other in bank]
    nearest = sorted(range(len(bank)), key=lambda i: -cosines[i])[:k]
    votes = torch.zeros(classes)
    for i in nearest:
        votes[labels[i]] += torch.tensor(cosines[i] / temperature).exp()
    return votes / votes.sum()


@pytest.mark.parametrize("k", [1, 3, 12, 50])
def test_votes_are_weighted_by_cosine(k):
    torch.manual_seed(0)
    bank, labels, queries = torch.randn(12, 6), torch.randint(0, 4, (12,)), torch.randn(5, 6)
    head = NeighbourHead(6, 4, Neighbours(images=12, k=k, temperature=0.2))
    head.fill(bank, labels)
    expected = torch.stack([count_votes(query, bank, labels, 4, k, 0.2) for query in queries])
    torch.testing.assert_close(head(queries).exp(), expected.clamp_min(1e-6), atol=3e-3, rtol=1e-2)  # kept in fp16
    torch.testing.assert_close(head(7 * queries), head(queries))


@pytest.mark.parametrize("family", SOME)
def test_it_keeps_features_of_every_sample_and_answers_from_a_saved_folder(family, tmp_path):
    plain = make(family)
    x = images(plain, 3)
    expected, before = plain(x), snapshot(plain)
    model: Any = vp.attach(plain, vp.KNN(k=2), samples=samples(plain))
    every = torch.cat([batch for batch, _ in samples(plain)])
    names = classifier_names(model)
    for name in names:
        assert model.get_submodule(name).labels.tolist() == [0, 1, 2, 4, 1, 2, 2, 3, 2, 3, 2, 2]
    with torch.no_grad():
        own = model(every)
        if len(names) == 1:
            features = model.forward_head(model.forward_features(every), pre_logits=True)
            kept = model.get_submodule(names[0]).bank.float()
            torch.testing.assert_close(kept, features / features.norm(dim=-1, keepdim=True), atol=1e-3, rtol=1e-2)
    nearest_is_itself = vp.attach(make(family), vp.KNN(k=1), samples=samples(plain))
    assert nearest_is_itself(every).argmax(1).tolist() == [0, 1, 2, 4, 1, 2, 2, 3, 2, 3, 2, 2]
    assert own.shape == (12, 5)
    assert vp.count_parameters(model)[:3] == (0, 0, 0)
    assert list(vp.tuned_parameters(model)) == []
    vp.save_adapter(model, tmp_path)
    fresh: Any = make(family)
    fresh.reset_classifier(0)
    vp.load_adapter(fresh, tmp_path)
    assert torch.equal(fresh.eval()(x), model.eval()(x))
    vp.detach(model)
    for labels in (torch.zeros(2, 8, 8).long(), torch.zeros(2, 5), torch.rand(2)):  # masks, sets of labels, numbers
        with pytest.raises(ValueError, match="wants the number of a class for each image, and gets other labels"):
            vp.attach(model, vp.KNN(), samples=[(x, labels)])
    assert snapshot(model) == before
    assert torch.equal(model(x), expected)


def test_a_headless_model_has_as_many_classes_as_the_labels_say():
    model: Any = make("vit")
    model.reset_classifier(0)
    vp.attach(model, vp.KNN(k=2), samples=samples(model))
    assert model(images(model)).shape == (2, 5)


def test_neighbours_of_tuned_features():
    model = vp.attach(make("vit"), vp.LoRA(rank=2))
    randomise_tuned(model)
    vp.attach(model, vp.KNN(k=1), samples=samples(model))
    assert model(samples(model)[0][0]).argmax(1).tolist() == [0, 1, 2, 4]


def test_what_cannot_vote_is_refused_and_changes_nothing():
    model = make("vit")
    before, x = snapshot(model), images(model)
    expected = model(x)
    with pytest.raises(ValueError, match=r"needs .* to compare others with|to compare others with"):
        vp.attach(model, vp.KNN())
    with pytest.raises(ValueError, match="KNN got no images"):
        vp.attach(model, vp.KNN(), samples=[])
    with pytest.raises(ValueError, match="labels up to 7 for a model of 5 classes"):
        vp.attach(model, vp.KNN(), samples=[(x, torch.tensor([0, 7]))])
    assert snapshot(model) == before
    assert torch.equal(model(x), expected)
    tokens = vp.replace_head(make("vit"), "attentive", 5, queries=2)
    with pytest.raises(ValueError, match="pooled, not tokens"):
        vp.attach(tokens, vp.KNN(), samples=samples(tokens))
    with pytest.raises(ValueError, match="method=knn"):
        vp.replace_head(model, "knn", 5)
    with pytest.raises(ValueError, match="cannot merge the votes of neighbours"):
        vp.merge(vp.attach(model, vp.KNN(), samples=samples(model)))
    wrong: list[dict[str, Any]] = [{"k": 0}, {"temperature": 0.0}, {"tried": (1, 0)}]
    for fields in wrong:
        with pytest.raises(ValueError, match="must be a number above 0"):
            vp.KNN(**fields)


def test_a_run_chooses_k_on_val_and_leaves_a_row_and_an_adapter_like_any_other(tiny: Tiny):
    config = tiny("method=knn", "method.tried=[1,3,20]")
    trained = train(config)
    row, folder = trained.row, run_folder(config)
    assert [entry["k"] for entry in row.curve] == [1, 3, 20]
    best = max(row.curve, key=lambda entry: (entry["val_top1"], -entry["val_loss"]))
    assert (row.val_top1, row.chosen_epoch) == (best["val_top1"], best["epoch"])
    assert row.tried == {"method.k": [1, 3, 20]}
    assert (row.head, row.params_trained, row.params_stored, row.params_head) == ("knn", 0, 0, 0)
    assert row.methods == [{"name": "knn", "fields": {**row.methods[0]["fields"], "k": best["k"]}}]
    info = read_adapter_info(folder / "adapter")
    assert info.head == "knn images=24" + ("" if best["k"] == 20 else f" k={best['k']}")
    assert info.methods[0]["fields"]["k"] == best["k"]
    assert row.adapter_bytes > 24 * 24 * 2
    assert "24 images of train vote by 24 numbers each, 0.0 MB in fp16" in (folder / "log.txt").read_text()
    splits = config.data.open_splits()
    test = splits("test")
    predict = vp.Predictor(folder)
    right = [predict(test.path(i), top=1)[0][0] == test.classes[test.labels[i]] for i in range(len(test))]
    assert 100 * sum(right) / len(right) == pytest.approx(row.top1)
    assert json.loads((folder / "result.json").read_text())["methods"] == row.methods


def test_train_and_val_vote_together_with_the_k_that_val_chose(tiny: Tiny):
    config = tiny("method=knn", "method.tried=[1,5]", "protocol=val_select_retrain")
    row = train(config).row
    assert [entry["phase"] for entry in row.curve] == ["select", "select"]
    best = max(row.curve, key=lambda entry: (entry["val_top1"], -entry["val_loss"]))
    head = read_adapter_info(run_folder(config) / "adapter").head
    assert head == f"knn images=48 k={best['k']}"
    fixed = train(tiny("method=knn", "method.k=7", "protocol=last_epoch", folder="fixed")).row
    assert (fixed.curve, fixed.tried, fixed.methods[0]["fields"]["k"]) == ([], None, 7)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["+method_2=lora"], "no other method"),
        (["recipe.augment=flip"], "recipe.augment=none"),
        (["recipe.optimizer=lbfgs"], "no recipe.optimizer=lbfgs"),
    ],
)
def test_a_run_refuses_what_would_have_to_be_trained(tiny: Tiny, settings: list[str], reason: str):
    with pytest.raises(ValueError, match=f"method=knn trains nothing: it needs .*{reason}"):
        train(tiny("method=knn", *settings))


def test_a_run_that_is_asked_to_stop_ends_since_it_saves_nothing(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    row = train(tiny("method=knn", "method.tried=[1,3,5]", "max_time=1e-6")).row
    assert row.top1 is not None
    told = capsys.readouterr().out
    (chosen,) = [entry["k"] for entry in row.curve if entry["epoch"] == row.chosen_epoch]
    assert f"\ntraining          k={chosen} is kept; " in told
    assert "stopped after" not in told
