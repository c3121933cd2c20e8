"""The HTML report in a headless Chromium: what a reader does with it, and that no name in a row runs."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.browser import browser, list_complaints, resize
from support.hostile_text import HOSTILE
from support.report_page import choose, list_rows, texts

from vision_peft.printable import printable
from vision_peft.results.html_page import make_page
from vision_peft.results.row import Row

__all__ = ["browser"]
ATTACKS = [
    "</script><script>window.hit=1</script>",
    "<img src=x onerror=window.hit=1>",
    '"><svg onload=window.hit=1>',
    "'-window.hit=1-'",
    "javascript:window.hit=1",
    HOSTILE,
]
PIXEL = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture
def page(browser: Any, folder: Path, make_row: Callable[..., Row]) -> Any:
    """The browser at a page of `list_rows`, fresh."""
    if not (folder / "report.html").exists():
        (folder / "report.html").write_text(make_page(list_rows(make_row)), encoding="utf-8")
    resize(browser, 1200)
    browser.get((folder / "report.html").as_uri())
    yield browser
    assert list_complaints(browser) == []


def marks(page: Any) -> list[Any]:
    return page.find_elements("css selector", "#chart .mark")


def test_a_point_shows_its_figures_on_hover_and_by_arrow_keys(page: Any) -> None:
    from selenium.webdriver import ActionChains

    labels = [mark.get_attribute("aria-label") for mark in marks(page)]
    assert labels == ["AdaptFormer-8: 70.50 ± 0.71", "LoRA-8: 76.50 ± 0.71", "AdaptFormer-64: 73.50 ± 0.71"]
    tip = page.find_element("id", "tip")
    assert not tip.is_displayed()
    ActionChains(page).move_to_element(marks(page)[1]).perform()
    assert tip.is_displayed()
    for wanted in ("LoRA-8", "76.50 ± 0.71", "290.00 k", "102 ms", "1.5 GB", "tried lr: 2"):
        assert wanted in tip.text
    marks(page)[0].send_keys("\ue014")  # arrow right
    assert page.switch_to.active_element.get_attribute("aria-label").startswith("LoRA-8")
    assert "LoRA-8" in tip.text
    page.switch_to.active_element.send_keys("\n")
    assert page.find_element("id", "detail-title").text == "LoRA-8 on digits clothing"
    assert "vision-peft train method=lora data.task=clothing seed=1" in texts(page, "#one pre")


def test_the_axis_the_figure_and_the_task_can_be_switched(page: Any) -> None:
    before = [mark.rect["x"] for mark in marks(page)]
    choose(page, "axis", "memory")
    assert [mark.get_attribute("aria-label").split(":")[0] for mark in marks(page)] == [
        "full fine-tuning",
        "linear probe",
        "LoRA-8",
        "AdaptFormer-64",
        "AdaptFormer-8",
    ]
    assert [mark.rect["x"] for mark in marks(page)][:3] != before
    (line,) = page.find_elements("css selector", "#chart polyline")
    eight, sixty_four = (float(corner.split(",")[0]) for corner in line.get_attribute("points").split())
    assert eight > sixty_four, "it goes from size to size, here to what takes less memory"
    assert "peak memory (bytes)" in page.find_element("id", "chart").text
    choose(page, "figure", "figure mean_per_class")
    assert all(": 96.30" in mark.get_attribute("aria-label") for mark in marks(page))
    choose(page, "panel", "1")
    assert "rsscn7" in page.find_element("css selector", "#chart svg").get_attribute("aria-label")


def test_a_method_is_hidden_by_its_entry_in_the_legend(page: Any) -> None:
    references = page.find_element("id", "chart").text
    assert "linear probe 79.5" in references
    assert "full fine-tuning 82.5" in references
    curves = "#curves polyline"
    assert len(page.find_elements("css selector", curves)) == 10
    entry = next(b for b in page.find_elements("css selector", "#legend button") if b.text == "LoRA-8")
    entry.send_keys(" ")
    assert [mark.get_attribute("aria-label").split(":")[0] for mark in marks(page)] == [
        "AdaptFormer-8",
        "AdaptFormer-64",
    ]
    assert len(page.find_elements("css selector", curves)) == 8
    assert page.switch_to.active_element.get_attribute("aria-pressed") == "false"
    page.switch_to.active_element.send_keys(" ")
    assert len(marks(page)) == 3


def test_tables_sort_by_their_heads_and_one_filter_acts_on_all(page: Any) -> None:
    methods, figures = "#results tbody th", "#results tbody td:nth-child(3)"
    assert len(texts(page, methods)) == 10
    head = page.find_element("css selector", "#results thead th:nth-child(3) button")
    head.send_keys("\n")
    assert texts(page, figures)[:2] == ["82.50 ± 0.71"] * 2
    assert (
        page.find_element("css selector", "#results thead th:nth-child(3)").get_attribute("aria-sort") == "descending"
    )
    head.send_keys("\n")
    assert texts(page, methods)[:2] == ["AdaptFormer-8"] * 2
    page.find_element("id", "filter").send_keys("ADAPTFORMER clothing")
    for table in ("results", "costs", "parameters"):
        assert texts(page, f"#{table} tbody th") == ["AdaptFormer-8", "AdaptFormer-64"], table
    assert page.find_element("id", "count").text == "2 of 10 settings"
    page.find_element("id", "filter").send_keys("\ue009a", "\ue003")  # all of it, backspace
    choose(page, "filter-task", "digits rsscn7")
    choose(page, "filter-search", "yes")
    assert texts(page, methods) == ["LoRA-8"]
    assert texts(page, "#results .badge") == ["val_select", "5 epochs", "tried lr: 2"]


def test_the_table_of_tasks_sorts_times_by_seconds(page: Any, folder: Path, make_row: Callable[..., Row]) -> None:
    rows = [
        make_row(fields={"bottleneck": size}, train_seconds=seconds)
        for size, seconds in ((8, 37.0), (16, 725.0), (32, 11_520.0), (64, 90.0))
    ]
    (folder / "times.html").write_text(make_page(rows), encoding="utf-8")
    page.get((folder / "times.html").as_uri())
    head = page.find_element("css selector", "#tasks thead th:last-child button")
    for wanted in (["3 h 12 min", "12 min 5 s", "90 s", "37 s"], ["37 s", "90 s", "12 min 5 s", "3 h 12 min"]):
        head.send_keys("\n")
        assert texts(page, "#tasks tbody td:last-child") == wanted


def test_a_setting_shows_confusions_hardest_items_and_curves(page: Any) -> None:
    page.find_element("css selector", "#results tbody th button").click()
    one = page.find_element("id", "one").text
    for wanted in ("Most often mixed up", "test/cat/1.png", "wrong with 2 of 2 seeds", "90 %, true: cat"):
        assert wanted in one
    assert len(page.find_elements("css selector", "#one .draw .mark")) == 9
    assert texts(page, "#one tbody tr")[0].split() == ["dog", "cat", "4"]


def test_a_single_run_that_python_started_has_a_remark_where_the_command_stands(
    browser: Any, tmp_path: Path, make_row: Callable[..., Row]
) -> None:
    (tmp_path / "report.html").write_text(make_page([make_row(command="")]), encoding="utf-8")
    browser.get((tmp_path / "report.html").as_uri())
    assert browser.find_element("id", "count").text == "1 setting"
    assert texts(browser, "#one .command pre") == ["# started from Python, without a command"]


def test_it_fits_a_phone_is_dark_where_that_is_preferred_and_prints(page: Any) -> None:
    back = "return getComputedStyle(document.body).backgroundColor"
    assert page.execute_script(back) == "rgb(246, 247, 249)"
    page.find_element("id", "theme").click()
    assert page.execute_script(back) == "rgb(18, 20, 23)"
    page.execute_script("localStorage.clear()")
    resize(page, 390, "dark")
    page.refresh()
    assert page.execute_script(back) == "rgb(18, 20, 23)"
    assert page.execute_script("return document.documentElement.scrollWidth") == 390
    assert page.execute_script("return document.querySelector('#chart svg').getBoundingClientRect().right") <= 390
    pdf = base64.b64decode(page.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert pdf.startswith(b"%PDF")
    assert len(pdf) > 10_000
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert page.execute_script(back) == "rgb(255, 255, 255)"
    assert not page.find_element("id", "theme").is_displayed()
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_no_name_in_a_row_runs_or_becomes_an_element(
    browser: Any, tmp_path: Path, make_row: Callable[..., Row]
) -> None:
    rows = []
    for text in ATTACKS:
        own = {
            "per_class": {text: 50.0, "b": 50.0},
            "confusion": [[1, 2], [3, 4]],
            "hardest": [{"item": text, "true": text, "answered": text, "confidence": 0.5}],
            "curve": [{"epoch": n, "train_loss": text, "val_top1": 5.0} for n in (1, 2)],
            "tried": {text: [text]},
            "settings": {text: text},
            "versions": {text: text},
            "figure_words": {"top1": text},
            **dict.fromkeys(("dataset", "task", "backbone", "head", "device", "command", "commit"), text),
        }
        rows += [make_row(text, {text: text, "size": 3}, **own), make_row("linear", {}, **own)]
    published = {"title": ATTACKS[0], "Published": ATTACKS[1]}
    page = make_page(rows, published=lambda _: published, picture=lambda row, item: PIXEL)
    (tmp_path / "a.html").write_text(page, encoding="utf-8")
    browser.get((tmp_path / "a.html").as_uri())
    count = browser.execute_script("return document.getElementById('setting').options.length")
    assert count == len(rows)
    for place in range(count):
        choose(browser, "setting", str(place))
        shown = browser.execute_script("return document.getElementById('one').innerText")
        assert printable(ATTACKS[place // 2])[:20] in browser.execute_script("return document.body.innerText")
        assert all(letter.isprintable() or letter in "\n\t" for letter in shown)
    assert browser.execute_script("return [window.hit === undefined, document.scripts.length]") == [True, 2]
    foreign = "return document.querySelectorAll('img:not([src^=data]), [onerror], [onload], [href^=javascript]').length"
    assert browser.execute_script(foreign) == 0
    assert list_complaints(browser) == []
