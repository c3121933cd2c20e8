"""The HTML report in a headless Chromium: where it stands on screens and paper, and what a page says that cannot be."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.browser import browser, list_complaints, resize
from support.report_page import choose, list_rows, texts

from vision_peft.results.html_page import make_page
from vision_peft.results.row import Row

__all__ = ["browser"]
Make = Callable[..., Row]
Open = Callable[..., Any]
DATA = re.compile(r'(?<=id="data">)[^<]*')
# Rectangles of elements, cut to what their scrolling ancestors show: [left, top, right, bottom]
SEEN = """
function seen(element) {
  let { left, top, right, bottom } = element.getBoundingClientRect();
  for (let box = element.parentElement; box; box = box.parentElement) {
    if (getComputedStyle(box).overflowX === "visible") continue;
    const outer = box.getBoundingClientRect();
    [left, right] = [Math.max(left, outer.left), Math.min(right, outer.right)];
  }
  return [left, top, right, bottom];
}
return [...document.querySelectorAll(arguments[0])].filter((element) => element.getClientRects().length).map(seen);
"""
Box = list[float]


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Open:
    def show(page: str, width: int = 1200) -> Any:
        (tmp_path / "page.html").write_text(page, encoding="utf-8")
        resize(browser, width)
        list_complaints(browser)  # of the page before
        browser.get((tmp_path / "page.html").as_uri())
        return browser

    return show


def boxes(page: Any, selector: str) -> list[Box]:
    return page.execute_script(SEEN, selector)


def overlap(a: Box, b: Box) -> bool:
    return min(a[2], b[2]) - max(a[0], b[0]) > 0.5 and min(a[3], b[3]) - max(a[1], b[1]) > 0.5


def print_at(page: Any, width: int) -> None:
    """Lay the page out as for paper of this width between its margins."""
    size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})


def make_crowded(make_row: Make) -> list[Row]:
    """A row of 30 classes, whose long names differ only at their ends."""
    names = [f"a rather long name of class {n:03d}" for n in range(30)]
    counts = [[90 if i == j else (i * j) % 7 for j in range(30)] for i in range(30)]
    hardest = [{"item": f"{'x' * 90}.png", "true": names[0], "answered": names[1], "confidence": 0.9}]
    curve = [{"epoch": n, "train_loss": 1 / n, "val_top1": 60.0 + n} for n in range(1, 6)]
    return [make_row(per_class=dict.fromkeys(names, 50.0), confusion=counts, hardest=hardest, curve=curve)]


@pytest.mark.parametrize("damage", ["cut", "altered", "empty", "no letters of base64", "script altered", "cut file"])
def test_a_damaged_page_says_that_it_is_damaged(damage: str, open_page: Open, make_row: Make) -> None:
    page = make_page([make_row()])
    (data,) = DATA.findall(page)
    middle = len(data) // 2
    swapped = data[:middle] + ("B" if data[middle] == "A" else "A") + data[middle + 1 :]
    damaged = {"cut": data[: middle // 4 * 4], "altered": swapped, "empty": "", "no letters of base64": f"{data}%%"}
    if damage in damaged:
        page = DATA.sub(damaged[damage], page)
    page = page.replace("Put the page together", "Put it together") if damage == "script altered" else page
    shown = open_page(page[: page.index(data) + 50] if damage == "cut file" else page)
    told = shown.execute_async_script(
        "const [done, main] = [arguments[0], document.getElementById('main')];"
        "const look = () => main.innerText.trim() ? done(main.innerText) : setTimeout(look, 50); look()"
    )
    unread = damage in ("script altered", "cut file")
    why = "its script is missing or altered" if unread else "its data cannot be unpacked"
    assert told.startswith(f"This page is damaged or incomplete: {why}")
    assert "vision-peft report" in told
    list_complaints(shown)  # they are the browser's words for the same


def test_a_browser_that_is_too_old_reads_the_script_and_says_so(browser: Any, open_page: Open, make_row: Make) -> None:
    old = {"source": "delete window.DecompressionStream"}
    started = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", old)
    try:
        page = open_page(make_page([make_row()]))
        assert page.find_element("id", "main").text.startswith("This page needs a browser of May 2023 or later")
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", started)
    script = page.execute_script("return document.scripts[1].textContent")
    assert page.execute_script("return document.scripts[1].type") == "", "a module is not read at all by some"
    page.get("about:blank")
    page.execute_script("new Function(arguments[0])", script)  # an await outside of a function is an error here
    assert not re.search(r"\?\.[\w(\[]|\?\?", script), "operators of 2020"
    list_complaints(page)


@pytest.mark.parametrize("width", [1200, 1000, 960, 920, 390])
def test_nothing_lies_on_the_settings_or_sticks_out_with_many_long_class_names(
    width: int, open_page: Open, make_row: Make
) -> None:
    page = open_page(make_page(make_crowded(make_row)), width)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    pictures, words = boxes(page, "#one svg, #one table"), boxes(page, "#one dl, #one ol, #one ul, #one h3")
    assert len(pictures) == 4
    assert not [(a, b) for a in pictures for b in words if overlap(a, b)]
    assert not [(a, b) for a in pictures for b in pictures if a != b and overlap(a, b)]
    (card,) = boxes(page, "#one")
    assert max(right for _, _, right, _ in pictures) <= card[2]
    assert list_complaints(page) == []


def test_names_of_classes_that_differ_at_their_ends_are_told_apart(open_page: Open, make_row: Make) -> None:
    page = open_page(make_page(make_crowded(make_row)), 920)
    names = page.execute_script(
        "return [...document.querySelectorAll('#one svg[aria-label^=Confusion] text:not([transform])')]"
        ".map((text) => [text.firstChild.textContent, text.querySelector('title')?.textContent])"
    )[:30]
    assert len({shown for shown, _ in names}) == 30
    assert names[7] == ["a rathe…ss 007", "a rather long name of class 007"]


def test_learning_curves_of_one_setting_stand_at_the_left(open_page: Open, make_row: Make) -> None:
    page = open_page(make_page(make_crowded(make_row)), 800)
    heading = boxes(page, "#detail-title")[0]
    starts = [left for left, *_ in boxes(page, "#one svg[role=img] .strong")]
    assert min(starts) - heading[0] < 10


def test_a_tiny_window_draws_without_errors(open_page: Open, make_row: Make) -> None:
    page = open_page(make_page(list_rows(make_row)), 20)
    page.find_element("css selector", "#detail-title")
    assert list_complaints(page) == []


def make_lengths(make_row: Make) -> list[Row]:
    """Trainings of 5 and 100 epochs, k-NN, and a head that was solved for."""

    def trace(values: list[Any], path: str = "lr") -> list[dict[str, Any]]:
        return [
            {"epoch": n, path: value, "train_loss": 1 / n, "val_top1": 50.0 + n / len(values)}
            for n, value in enumerate(values, start=1)
        ]

    return [
        make_row("lora", {}, epochs=5, curve=trace([1] * 5)),
        make_row("ssf", {}, epochs=100, curve=trace([1] * 100), params_trained=5000),
        make_row("knn", {}, epochs=1, curve=trace([1, 10, 100], "k"), params_trained=0),
        make_row("linear", {}, epochs=3, curve=trace([1.0, 0.1, 0.01], "penalty"), params_trained=0),
    ]


def test_trainings_of_very_different_lengths_are_drawn_against_their_share(open_page: Open, make_row: Make) -> None:
    page = open_page(make_page(make_lengths(make_row)))
    axis = "#curves svg text.strong"
    assert texts_of(page, axis)[1] == "share of the training (%)"
    short, long = sorted(boxes(page, "#curves polyline"), key=lambda box: box[0] - box[2], reverse=True)
    assert short[2] == pytest.approx(long[2], abs=1)
    assert short[2] - short[0] > 0.75 * (long[2] - long[0])
    note = page.find_element("id", "curves-note").text
    assert "5 to 100 epochs" in note
    assert "Without " in note
    assert {"k-NN", "linear probe"} <= set(re.findall(r"k-NN|linear probe", note))
    entry = next(b for b in page.find_elements("css selector", "#legend button") if b.text.startswith("SSF"))
    entry.send_keys(" ")
    assert texts_of(page, axis)[1] == "epoch"
    assert "share" not in page.find_element("id", "curves-note").text


def test_lines_of_methods_that_share_a_colour_are_dashed(open_page: Open, make_row: Make) -> None:
    curve = [{"epoch": epoch, "train_loss": 1 / epoch, "val_top1": 60.0 + epoch} for epoch in (1, 2)]
    rows = [
        make_row(f"method_{place:02}", {"size": size}, top1=70.0 + size, params_trained=1000 * size, curve=curve)
        for place in range(17)
        for size in (1, 2)
    ]
    page = open_page(make_page(rows))
    lines = page.find_elements("css selector", "#chart polyline")
    looks = [line.value_of_css_property("stroke") + line.value_of_css_property("stroke-dasharray") for line in lines]
    assert len(set(looks)) == 17
    assert sum("none" in look for look in looks) == 16
    entries = page.find_elements("css selector", "#legend line")
    assert [entry.get_attribute("stroke-dasharray") for entry in entries].count("none") == 16
    found = [line.get_attribute("stroke-dasharray") for line in page.find_elements("css selector", "#curves polyline")]
    assert (found.count("none"), len(found)) == (32, 34)


def test_one_setting_of_knn_and_of_a_solved_head_has_the_axis_that_was_tried(open_page: Open, make_row: Make) -> None:
    page = open_page(make_page(make_lengths(make_row)))
    found = {}
    for place, text in enumerate(page.find_element("id", "setting").text.splitlines()):
        choose(page, "setting", str(place))
        found[text.split(": ")[1].split(" (")[0]] = texts_of(page, "#one svg[role=img] text.strong")[1]
    assert found == {"k-NN": "k", "linear probe": "penalty", "LoRA": "epoch", "SSF": "epoch"}


def texts_of(page: Any, selector: str) -> list[str]:
    return [text.text for text in page.find_elements("css selector", selector)]


def test_paper_tells_what_is_chosen_and_no_keys(open_page: Open, make_row: Make) -> None:
    page = open_page(make_page(list_rows(make_row)))
    choose(page, "panel", "1")
    choose(page, "axis", "memory")
    choose(page, "watched", "loss")
    choose(page, "filter-task", "digits rsscn7")
    assert texts(page, ".chosen") == []
    keys = "Arrow keys move between points"
    assert keys in page.find_element("id", "curve").text
    print_at(page, 688)
    told = "Task: digits rsscn7, vit_base_patch16_224.augreg_in21k, 224 px, val_select"
    curve, learning, filtered, one = texts(page, ".chosen")
    assert curve == f"{told}. Figure: top-1 %. Against: peak memory (bytes)"
    assert learning == f"{told}. Shown: loss on train"
    assert filtered == "Task: digits rsscn7"
    assert one.startswith("Setting: digits clothing, 224 px: linear probe")
    assert keys not in page.find_element("id", "curve").text


def test_tables_fit_paper_of_a4(open_page: Open, make_row: Make) -> None:
    page = open_page(make_page(list_rows(make_row)))
    print_at(page, 688)
    assert page.execute_script("return document.documentElement.scrollWidth") <= 688
    assert max(right for _, _, right, _ in boxes(page, "table")) <= 688


@pytest.mark.parametrize("width", [1200, 390])
def test_names_of_references_lie_on_no_line_point_or_other_name(width: int, open_page: Open, make_row: Make) -> None:
    values = {"linear": 75.9, "full": 75.7, "knn": 75.3}
    rows = [make_row(name, {}, top1=value, params_trained=0) for name, value in values.items()]
    probe = {"head": "attentive", "params_trained": 0}
    rows += [make_row("linear", {}, epochs=n, top1=75 + n / 100, **probe) for n in (10, 50)]
    rows += [make_row(fields={"bottleneck": size}, top1=74.8, params_trained=10**size) for size in (4, 5, 6, 7)]
    rows += [make_row("ssf", {}, top1=40.0, params_trained=5000)]
    page = open_page(make_page(rows), width)
    names = page.execute_script(
        "return [...document.querySelectorAll('#chart svg text')]"
        ".filter((text) => /[a-zA-Z] \\d\\d/.test(text.textContent))"
        ".map((text) => { const r = text.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; })"
    )
    lines = boxes(page, "#chart line.bare")
    thick = [[left, top - 1, right, bottom + 1] for left, top, right, bottom in lines] + boxes(page, "#chart .mark")
    assert len(names) == 5
    assert not [(a, b) for a in names for b in thick if overlap(a, b)]
    close = [(a, b) for a in names for b in names if a != b and min(a[3], b[3]) - max(a[1], b[1]) > 3]
    assert not close, "names are a line apart"
