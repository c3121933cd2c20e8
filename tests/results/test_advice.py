"""Sentences on a comparison say what the figures say, and the table holds them all."""

import csv
import io
from typing import Any

import numpy as np
import pytest

from vision_peft.packed_bits import pack_bits
from vision_peft.results.advice import advise
from vision_peft.results.comparison import Entry, format_comparison, to_csv, to_markdown
from vision_peft.results.intervals import bootstrap_interval

N = 400
OF_80 = bootstrap_interval(np.arange(N) < 320)
BOUNDS = f"({OF_80.low:.1f} to {OF_80.high:.1f})"


@pytest.fixture
def entry(make_row: Any) -> Any:
    """A method that answers the first `right` of 400 items, and others beside them."""

    def make(name: str, right: int, also: int = 0, trained: int = 1000, size: int = 10_000, **more: Any) -> Entry:
        bits = (np.arange(N) < right) | (np.arange(N) >= N - also)
        row = make_row(
            n_test=N,
            top1=100 * bits.mean(),
            correct=pack_bits(bits),
            data_digest="d",
            params_trained=trained,
            params_stored=trained,
            adapter_bytes=size,
            peak_memory_mb=700.0,
        )
        given = {"tried": "28 epochs", "search_s": 100.0, "predicted_bytes": 650e6, "inference": 1.2}
        return Entry(name, row, command=f"vision-peft train method={name}", **(given | more))

    return make


def test_a_smaller_adapter_that_cannot_be_told_from_the_best_is_suggested(entry: Any) -> None:
    entries = [entry("full fine-tuning", 320, size=3_000_000, trained=10**6), entry("LoRA-8", 310, 8)]
    found = advise(entries)
    assert found.suggested is entries[1]
    assert found.sentences == [
        f"Full fine-tuning is best on test: 80.0 % {BOUNDS}.",
        "LoRA-8 (79.5 %) cannot be told from full fine-tuning (p = 0.81: it alone is right on 8 test items, the other "
        "on 10) at 1/300 of its bytes and 1/1,000 of its stored parameters.",
    ]


def test_what_is_not_told_from_the_best_but_lies_below_its_interval_is_not_suggested(entry: Any) -> None:
    entries = [entry("full", 200, size=3_000_000), entry("probe", 64, 112, size=1000), entry("LoRA-8", 190, 4)]
    found = advise(entries)
    assert found.suggested is entries[2]
    assert found.sentences[-1] == "Not told from full, but below its interval: probe (p = 0.14)."


def test_a_few_bytes_less_are_no_reason_for_a_lower_figure(entry: Any) -> None:
    entries = [entry("LoRA-8", 320, size=10_000), entry("PiSSA-8", 318, size=9_990), entry("full", 319, size=10**6)]
    found = advise(entries)
    assert found.suggested is entries[0]
    assert not any("PiSSA-8" in sentence for sentence in found.sentences)
    entries.append(entry("VeRA-8", 310, 8, size=4_000))
    assert advise(entries).suggested is entries[-1]


def test_entries_without_time_or_bytes_are_compared_too(entry: Any) -> None:
    entries = [entry("a1", 320, size=0, search_s=None), entry("b1", 319, size=0), entry("c1", 318, size=0, search_s=1)]
    assert advise(entries).suggested is entries[0]


def test_what_differs_is_not_suggested_and_named(entry: Any) -> None:
    entries = [entry("full", 320, size=3_000_000), entry("LoRA-8", 280)]
    found = advise(entries)
    assert found.suggested is entries[0]
    assert found.sentences[-1] == "Worse than full beyond chance: LoRA-8 (p < 0.001)."


def test_a_method_beside_the_largest_adapter(entry: Any) -> None:
    entries = [entry("vpt", 322), entry("full", 320, size=3_000_000)]
    assert f"Vpt is within the interval of full {BOUNDS} at 1/300 of the bytes." in advise(entries).sentences
    entries = [entry("vpt", 360), entry("full", 320, size=3_000_000)]
    assert f"Vpt is above the interval of full {BOUNDS} at 1/300 of the bytes." in advise(entries).sentences


@pytest.mark.parametrize(
    ("probe", "sentence"),
    [
        ((330, 0), "It leaves the backbone as it is: nothing that changes the backbone beats it."),
        (
            (310, 8),
            "Nothing that changes the backbone beats linear probe (79.5 %), which leaves it as it is, beyond chance: "
            "LoRA-8 is nearest to it (p = 0.81: it alone is right on 10 test items, the other on 8).",
        ),
        ((280, 0), None),
    ],
)
def test_that_nothing_beats_a_frozen_backbone_is_said(entry: Any, probe: tuple[int, int], sentence: str | None) -> None:
    others = [entry("linear probe", *probe, trained=0, size=20_000), entry("k-NN", 200, trained=0)]
    entries = [entry("LoRA-8", 320), *others]
    said = [each for each in advise(entries).sentences if "backbone" in each]
    assert said == ([] if sentence is None else [sentence])


def test_the_quickest_of_those_that_are_alike_is_named(entry: Any) -> None:
    entries = [entry("a1", 320, size=9000), entry("b1", 319, size=1000), entry("c1", 318, size=5000, search_s=10.0)]
    (words,) = [each for each in advise(entries).sentences if "least time" in each]
    assert words == (
        "c1 (79.5 %) cannot be told from a1 either and took the least time, search included: 10 s instead of 100 s."
    )


@pytest.mark.parametrize(("seconds", "said"), [(50.0, True), (51.0, False), (99.0, False)])
def test_a_few_seconds_less_are_not_worth_a_sentence(entry: Any, seconds: float, said: bool) -> None:
    entries = [entry("a1", 320, size=9000), entry("b1", 319, size=1000), entry("c1", 318, size=5000, search_s=seconds)]
    assert any("least time" in each for each in advise(entries).sentences) == said


def test_tasks_without_single_answers_are_ordered_and_not_tested(make_row: Any) -> None:
    def of(name: str, mae: float) -> Entry:
        figures = {"figures": {"mae": mae}, "figure_words": {"mae": "MAE, kg"}}
        return Entry(name, make_row(top1=None, metric="mae", lower_is_better=True, **figures))

    found = advise([of("x", 0.5), of("y", 0.4)])
    assert found.suggested is not None
    assert found.suggested.name == "y"
    assert found.sentences == [
        "Y is best on test: MAE 0.400 kg.",
        "Whether the others differ from it by more than chance is not known for this kind of task.",
    ]
    assert "MAE kg" in format_comparison([of("x", 0.5)], [])


def test_one_method_and_none(entry: Any) -> None:
    assert advise([entry("a1", 320)]).sentences == [f"Only a1 was compared: 80.0 % {BOUNDS}."]
    assert advise([Entry("b", why="no time")]).suggested is None


def test_the_table_holds_every_method_and_why_others_are_left_out(entry: Any) -> None:
    left_out = Entry("full", why="no time")
    entries = [entry("LoRA-8", 320, merged=1.0), entry("k-NN", 200, trained=0, inference=None), left_out]
    text = format_comparison(entries, ["a note"])
    lines = text.splitlines()
    assert lines[0] == "digits, vit_base_patch16_224.augreg_in21k, 224 px, val_select"
    names = "method top-1 % trained stored adapter train search memory, MB infer tried"
    assert " ".join(lines[2].split()) == names
    figures = f"LoRA-8 80.0 {BOUNDS} 1.0 k 1.0 k 10.0 kB 81 s 100 s 700 (650) 1.00x* 28 epochs"
    assert " ".join(lines[4].split()) == figures
    assert lines[5].split()[-3:] == ["-", "28", "epochs"]
    assert lines[7:] == ["full was left out: no time", "a note"]
    assert max(map(len, lines)) <= 120
    page = to_markdown(entries, ["Said."], ["a note"])
    assert f"| LoRA-8 | 80.0 {BOUNDS} | 1.0 k |" in page
    assert "# LoRA-8\nvision-peft train method=LoRA-8\n" in page
    first, _, last = csv.DictReader(io.StringIO(to_csv(entries)))
    assert (first["test"], first["predicted_memory_mb"], first["merged_inference"]) == ("80.0", "650.0", "1.0")
    assert (float(first["low"]), float(first["high"])) == (OF_80.low, OF_80.high)
    assert (last["method"], last["test"], last["left_out"]) == ("full", "", "no time")
