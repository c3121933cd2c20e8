"""The headers of experiments say what was published."""

from vision_peft.config.find_configs import list_configs
from vision_peft.config.published import read_published


def test_a_header_is_read_by_its_paragraphs() -> None:
    found = read_published("vpt_vtab")
    assert found is not None
    assert found["title"].startswith("VPT-deep on VTAB-1k by its paper: SGD")
    assert found["Published"].startswith("Natural 78.5, Specialized 82.4, Structured 55.0 %")
    assert found["Published"].endswith("Test accuracy over five runs.")
    assert found["Source"] == "arXiv 2203.12119; KMnP/vpt tune_vtab.py, base-prompt.yaml."
    assert "vision-peft" not in found["title"]


def test_every_experiment_has_a_figure_and_a_source_and_other_names_have_nothing() -> None:
    for name in list_configs("experiment"):
        found = read_published(name) or {}
        assert {"title", "Source", "Protocol"} <= found.keys(), name
        assert {"Published", "Measured"} & found.keys(), name
    for name in ("none", "../config", "../../setup", "", "vpt_vtab.yaml"):
        assert read_published(name) is None, name
