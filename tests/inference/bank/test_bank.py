"""The tasks of a bank: added, replaced and dropped while it answers, within a number of loaded adapters, in one bit."""

import threading
from typing import Any

import pytest
import torch
from support.banks import fill, mix, tune, worst_difference
from support.families import images, tiny
from torch import nn

import vision_peft as vp


@pytest.fixture(scope="module")
def tuned():
    return {
        "lora": tune("vit", [vp.LoRA(rank=2)], 2, seed=1),
        "adaptformer": tune("vit", [vp.AdaptFormer(bottleneck=4)], 7, seed=2),
        "vpt": tune("vit", [vp.VPT(tokens=3, deep=False)], 3, seed=3),
        "prompts": tune("vit", [vp.PromptTuning(tokens=3)], 40, seed=4),
        "ensemble": tune("vit", [vp.PromptTuning(tokens=3, ensemble=2)], 5, seed=5),
    }


@pytest.fixture(scope="module")
def folders(tuned, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    return {name: vp.save_adapter(model, folder / name) for name, model in tuned.items()}


@pytest.fixture
def bank(folders):
    bank = vp.Bank(tiny("vit"))
    for name, folder in folders.items():
        bank.add(name, folder)
    return bank


def test_the_backbone_exists_once_and_stays_as_it_is(tuned, folders):
    model = tiny("vit")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    bank = vp.Bank(model)
    for name, folder in folders.items():
        bank.add(name, folder)
    bank(images(model, batch=5), list(tuned))
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    ours = {tensor.data_ptr() for tensor in model.parameters()}
    trees = [module for tree in bank._trees.values() for module in tree.model.modules()]
    held = {p.data_ptr(): p.numel() for module in trees for p in module._parameters.values() if p is not None}
    head = sum(p.numel() for p in model.head.parameters())
    assert (
        sum(numel for pointer, numel in held.items() if pointer in ours)
        == sum(before[n].numel() for n in before) - head
    )
    assert sum(numel for pointer, numel in held.items() if pointer not in ours) == 0


def test_frozen_layers_see_the_whole_batch_and_grafted_ones_their_part(folders):
    bank = vp.Bank(tiny("vit"))
    for name in ("lora", "adaptformer"):
        bank.add(name, folders[name])
    sizes: dict[str, list[int]] = {}
    (tree,) = bank._trees.values()
    for name in ("patch_embed.proj", "blocks.1.norm1", "blocks.1.attn.proj", "blocks.1.mlp.fc1", "norm"):
        tree.model.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: sizes.setdefault(name, []).append(len(output))
        )
    x = images(tiny("vit"), batch=6)
    bank(x, ["lora", "adaptformer"] * 3)
    sizes.clear()
    bank(x, ["lora", "adaptformer"] * 3)
    assert sizes == {name: [6] for name in sizes}
    assert len(sizes) == 5


def test_a_batch_of_one_task_is_bit_for_bit_that_of_the_single_adapter(bank, tuned):
    for name, model in tuned.items():
        assert worst_difference(bank, {name: model}, [name] * 4) == 0.0
        assert worst_difference(bank, {name: model}, [name] * 4) == 0.0


def test_one_name_stands_for_all_images_and_answers_stay_in_order(bank, tuned):
    x = images(tiny("vit"), batch=4)
    assert [tuple(logits.shape) for logits in bank(x, "lora")] == [(2,)] * 4
    assert bank(x[:0], []) == bank(x[:0], "lora") == []
    swapped = bank(x.flip(0), ["vpt", "lora", "lora", "vpt"])
    straight = bank(x, ["vpt", "lora", "lora", "vpt"])
    for row, logits in enumerate(straight):
        torch.testing.assert_close(swapped[3 - row], logits, rtol=0, atol=1e-5)


def test_dropping_and_replacing_touch_no_other_task(bank, tuned, folders):
    x = images(tiny("vit"), batch=2)
    before = bank(x, "adaptformer")
    bank.drop("lora")
    version = bank.tasks["vpt"].version
    task = bank.replace("vpt", folders["lora"])
    assert task.version > version
    assert "lora" not in bank
    assert all(map(torch.equal, bank(x, "adaptformer"), before))
    rest = {"adaptformer": tuned["adaptformer"], "vpt": tuned["lora"], "ensemble": tuned["ensemble"]}
    assert worst_difference(bank, rest, mix(list(rest))) < 1e-5
    for name in list(bank.tasks):
        bank.drop(name)
    kinds = {type(m).__name__ for tree in bank._trees.values() for m in tree.model.modules() if "[" in type(m).__name__}
    assert (len(bank), bank.loaded, kinds) == (0, [], set())


def test_threads_get_right_answers_while_tasks_come_change_and_go(bank, tuned, folders):
    x = images(tiny("vit"), batch=4)
    with torch.no_grad():
        known = {name: model(x) for name, model in tuned.items()}
    wrong: list[str] = []
    done = threading.Event()

    def ask(seed: int) -> None:
        for names in (mix(["lora", "adaptformer", "changing", "ensemble"], 1, seed + turn) for turn in range(25)):
            for row, answer in enumerate(bank.answer(x, names)):
                source = answer.task.folder.name
                if (answer.logits - known[source][row]).abs().max() > 1e-5:
                    wrong.append(f"{answer.task.name} {source}")

    def change() -> None:
        turn = 0
        while not done.is_set():
            bank.replace("changing", folders[["lora", "prompts", "adaptformer"][turn % 3]])
            bank.add(f"new {turn}", folders["vpt"])
            bank.drop(f"new {turn}")
            turn += 1

    bank.add("changing", folders["lora"])
    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(3)]
    changer = threading.Thread(target=change)
    for thread in (changer, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    changer.join()
    assert wrong == []
    assert bank.tasks["changing"].version > 6


def test_most_bounds_the_loaded_adapters_and_the_least_recently_used_goes_first(tuned, folders):
    bank = vp.Bank(tiny("vit"), most=2)
    for name in ("lora", "adaptformer", "vpt", "ensemble"):
        bank.add(name, folders[name])
    assert bank.loaded == ["vpt", "ensemble"]
    x = images(tiny("vit"), batch=1)
    bank(x, "vpt")
    bank(x, "lora")
    assert bank.loaded == ["vpt", "lora"]
    four = {name: tuned[name] for name in bank.tasks}
    assert worst_difference(bank, four, mix(list(four))) < 1e-5
    assert len(bank.loaded) == 2


def test_an_adapter_that_changed_on_disk_is_not_taken_for_the_one_that_was_added(folders, tuned, tmp_path):
    bank = vp.Bank(tiny("vit"), most=1)
    bank.add("own", vp.save_adapter(tuned["lora"], tmp_path / "own"))
    bank.add("other", folders["vpt"])
    vp.save_adapter(tuned["adaptformer"], tmp_path / "own")
    x = images(tiny("vit"), batch=1)
    with pytest.raises(ValueError, match="is not the one that was added as own: call"):
        bank(x, "own")
    assert bank.replace("own", tmp_path / "own").info.num_classes == 7
    assert worst_difference(bank, {"own": tuned["adaptformer"]}, ["own"]) == 0.0


def test_one_bit_stores_less_and_says_what_it_loses(tuned, folders):
    whole, coded = vp.Bank(tiny("vit")), vp.Bank(tiny("vit"), bits=1)
    x = images(tiny("vit"), batch=2)
    for name, folder in folders.items():
        before, after = whole.add(name, folder), coded.add(name, folder)
        assert after.bytes < before.bytes
        assert (before.error, 0.1 < after.error < 0.9) == (0.0, True)
        shorter, longer = coded(x, name), whole(x, name)
        assert not torch.equal(shorter[0], longer[0])
        assert torch.equal(coded(x, name)[0], shorter[0])
    matrices = sum(p.numel() for n, p in tuned["lora"].named_parameters() if "lora" in n)
    saved = whole.tasks["lora"].bytes - coded.tasks["lora"].bytes
    assert saved >= matrices * 4 - matrices // 8 - 16 * len(tuned["lora"].blocks) * 4


def test_what_lst_noted_of_a_batch_is_let_go(tmp_path):
    bank = vp.Bank(tiny("vit"))
    fill(bank, {"lst": tune("vit", [vp.LST(reduction=4)], 3), "lora": tune("vit", [vp.LoRA(rank=2)], 3)}, tmp_path)
    bank(images(tiny("vit")), ["lst", "lora"])
    norm: Any = bank._loaded["lst"][1].views["norm"].module
    assert norm.lst_taps.features == []


def test_tasks_that_are_not_there_are_named_and_nothing_is_computed(bank):
    with pytest.raises(KeyError, match=r"has no task lorra, 5 \(did you mean lora\?\): it has lora, adaptformer"):
        bank(images(tiny("vit"), batch=3), ["lora", "lorra", 5])
    for call in (lambda: bank.drop("cars"), lambda: bank.replace("cars", "x")):
        with pytest.raises(KeyError, match="the bank has no task cars"):
            call()
    with pytest.raises(ValueError, match="wanted a task for each of 3 images, got 1 tasks"):
        bank(images(tiny("vit"), batch=3), ["lora"])


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 101, 5])
def test_names_that_could_not_be_shown_are_refused(bank, folders, name):
    with pytest.raises(ValueError, match="a task's name is 1 to 100 printable letters"):
        bank.add(name, folders["lora"])


def test_what_does_not_fit_is_refused_and_the_bank_stays_as_it_was(bank, folders, tmp_path):
    before = bank.tasks
    other = vp.attach(tiny("vit", seed=5), vp.LoRA(rank=2))
    half = vp.attach(tiny("vit"), vp.FullFineTune())
    with pytest.raises(ValueError, match="was trained on other frozen weights"):
        bank.add("new", vp.save_adapter(other, tmp_path / "other"))
    with pytest.raises(ValueError, match="trained 100 % of the backbone in place: banks share the frozen backbone"):
        bank.add("new", vp.save_adapter(half, tmp_path / "full"))
    with pytest.raises(ValueError, match="the bank already has a task lora"):
        bank.add("lora", folders["lora"])
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        bank.replace("lora", tmp_path / "nothing")
    assert bank.tasks == before


def test_an_adapter_of_another_image_size_is_refused(tmp_path):
    import timm

    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=48, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=5
    )
    vp.save_adapter(vp.attach(model, vp.LoRA(rank=2)), tmp_path)
    with pytest.raises(ValueError, match="trained at 48 x 48 pixels, the backbone of this bank takes 32 x 32"):
        vp.Bank(tiny("vit")).add("large", tmp_path)


def test_a_model_that_is_tuned_already_and_impossible_settings_are_refused():
    tuned = vp.attach(tiny("vit"), vp.LoRA(rank=2))
    with pytest.raises(ValueError, match="a bank needs the plain frozen backbone"):
        vp.Bank(tuned)
    with pytest.raises(ValueError, match="a bank needs the plain frozen backbone"):
        vp.Bank(vp.merge(tuned, reversible=True))
    with pytest.raises(ValueError, match="most must be a whole number from 1"):
        vp.Bank(tiny("vit"), most=0)
    with pytest.raises(ValueError, match="bits must be 1"):
        vp.Bank(tiny("vit"), bits=2)
    with pytest.raises(ValueError, match="cannot attach to Linear"):
        vp.Bank(nn.Linear(2, 2))
