"""A timm outside the tested range is named once at attach, and the range is that of setup.cfg."""

import configparser
import warnings

import pytest
import timm

import vision_peft as vp
from vision_peft.tuning.timm_version import OLDEST, TOO_NEW, warn_if_untested


@pytest.fixture(autouse=True)
def _forget_warnings():
    warn_if_untested.cache_clear()
    yield
    warn_if_untested.cache_clear()


@pytest.mark.parametrize("version", ["1.0.30", "0.9.16", "1.1.0", "1.1.0.dev0", "1.1", "2.0", "main"])
def test_other_versions_are_warned_about(version):
    with pytest.warns(UserWarning, match=f'timm {version} is not tested .*"timm>={OLDEST},<{TOO_NEW}"'):
        warn_if_untested(version)


@pytest.mark.parametrize("version", ["1.0.31", "1.0.32.dev0", "1.0.100", "1.0.31+cu126"])
def test_tested_versions_are_not(version):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_untested(version)


def test_attach_warns_once_and_works(monkeypatch):
    monkeypatch.setattr(timm, "__version__", "1.0.22")
    model = vp.create_backbone("vit_tiny_patch16_224", img_size=32, num_classes=3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        vp.attach(model, vp.AdaptFormer(bottleneck=4))
        vp.attach(model, vp.LoRA(rank=2))
    assert [str(one.message)[:27] for one in caught] == ["timm 1.0.22 is not tested w"]
    assert caught[0].filename == __file__


def test_the_range_is_that_of_setup_cfg(repository):
    config = configparser.ConfigParser()
    config.read(repository / "setup.cfg", encoding="utf-8")
    assert f"timm>={OLDEST},<{TOO_NEW}" in config["options"]["install_requires"].split()
