"""Three tiny tasks on one backbone, one of which wants its pictures prepared otherwise."""

import pytest
from support.tuned_folders import save_tuned

import vision_peft as vp


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    return {
        "a": save_tuned(folder / "lora"),
        "b": save_tuned(folder / "adaptformer", vp.AdaptFormer(bottleneck=4)),
        "darker": save_tuned(folder / "darker", vp.VPT(tokens=3), settings={"mean": [0.9, 0.9, 0.9]}),
    }


@pytest.fixture(scope="module")
def bank(folders):
    bank = vp.Bank.load(folders["a"], "cpu")
    for name, folder in folders.items():
        bank.add(name, folder)
    return bank
