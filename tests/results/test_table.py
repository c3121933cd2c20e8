import pytest

from vision_peft.results.table import (
    format_bytes,
    format_count,
    format_result,
    format_rows,
    format_seconds,
    read_number,
)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1_000, "1.00 k"),
        (27_660, "27.66 k"),
        (999_999, "1.00 M"),
        (1_189_632, "1.19 M"),
        (85_798_656, "85.80 M"),
        (1_136_000_000, "1.14 G"),
    ],
)
def test_counts_are_short(number, text):
    assert format_count(number) == text


def test_counts_on_an_axis_have_no_digits_after_the_point():
    assert [format_count(value, digits=0) for value in (600, 3_000, 500_000, 1e6)] == ["600", "3 k", "500 k", "1 M"]


def test_bytes_are_in_powers_of_ten():
    assert [format_bytes(value) for value in (12, 2_403_112, 999_999, 1.21e9)] == ["12 B", "2.4 MB", "1.0 MB", "1.2 GB"]


def test_seconds_become_minutes_and_hours():
    words = [format_seconds(value) for value in (0.42, 9.99, 81.2, 725, 3599.7, 11_520)]
    assert words == ["0.4 s", "10 s", "81 s", "12 min 5 s", "1 h 0 min", "3 h 12 min"]


@pytest.mark.parametrize("value", [0.4, 12.0, 119.0, 725.0, 11_520.0])
def test_what_is_written_in_cells_is_read_back(value):
    assert read_number(format_seconds(value)) == value
    assert read_number(format_count(value)) == round(value, -1 if value > 1000 else 0)
    assert read_number(f"{value:.2f} ± 3.00* (n=2)") == value
    assert [read_number(text) for text in ("-", "", "none")] == [None] * 3
    assert read_number(f"-{value} k to 9 M") == pytest.approx(-1000 * value)


def test_one_row_is_written_downwards_with_exact_shares(make_row):
    lines = format_rows([make_row()]).splitlines()
    facts = {line[:20].strip(): line[20:] for line in lines if len(line) > 20}
    assert facts["method"] == "AdaptFormer-64"
    assert (facts["top-1 accuracy %"], facts["mean per class %"]) == ("96.40", "96.30")
    assert (facts["trained parameters"], facts["head parameters"]) == ("1.19 M", "7.69 k")
    assert facts["total parameters"] == "85.81 M"
    assert facts["share that trains"] == f"{100 * (1_189_632 + 7_690) / (85_798_656 + 7_690):.2f} %"
    assert (facts["adapter on disk"], facts["train time"], facts["peak memory"]) == ("4.8 MB", "81 s", "1.2 GB")
    assert "task" not in facts


def test_full_fine_tuning_trains_100_percent_and_a_linear_probe_its_head(make_row):
    full = format_rows([make_row("full", {}, params_trained=85_798_656)])
    linear = format_rows([make_row("linear", {}, params_trained=0)])
    assert "share that trains   100.00 %" in full
    assert f"share that trains   {100 * 7_690 / 85_806_346:.2f} %" in linear


def test_many_rows_are_aligned_under_what_they_share(make_row):
    rows = [make_row(), make_row("vpt", {"tokens": 10, "deep": True}, top1=None, mean_per_class=None)]
    text = format_rows(rows)
    title, _, header, rule, first, second, *_ = text.splitlines()
    assert title == "digits, vit_base_patch16_224.augreg_in21k, 224 px, val_select"
    assert len(rule) == max(map(len, (header, first, second)))
    assert set(rule) == {"-", " "}
    end = header.index("top-1 %") + len("top-1 %")
    assert first[:end].endswith("  96.40")
    assert second[:end].endswith("      -")
    assert second.startswith("VPT-deep-10 ")


def test_what_differs_becomes_a_column_and_the_same_name_is_told_apart(make_row):
    text = format_rows([make_row(task="a"), make_row(task="b"), make_row(task="b", lr=0.01)])
    assert text.startswith("digits, vit_base_patch16_224.augreg_in21k, 224 px, val_select\n")
    assert [line.split()[:1] for line in text.splitlines()[4:6]] == [["AdaptFormer-64"], ["AdaptFormer-64"]]
    assert "AdaptFormer-64 (lr=0.01)   b" in text
    assert "AdaptFormer-64             a" in text


def test_seeds_become_mean_and_deviation_where_asked(make_row):
    rows = [make_row(seed=0, top1=95.0), make_row(seed=1, top1=97.0), make_row("lora", {"rank": 8}, top1=96.0)]
    text = format_rows(rows, mean_over_seeds=True)
    assert f"96.00 ± {2**0.5:.2f}" in text
    (lora,) = [line for line in text.splitlines() if line.startswith("LoRA-8")]
    assert "±" not in lora
    assert len(format_rows(rows).splitlines()) == len(text.splitlines()) + 1
    heads = [
        next(line for line in made.splitlines() if line.startswith("method")).split()[1]
        for made in (text, format_rows(rows))
    ]
    assert heads == ["seeds", "seed"]


def test_an_epoch_selected_on_test_is_starred(make_row):
    text = format_rows([make_row(protocol="best_test"), make_row()])
    assert "96.40*" in text
    assert "* epoch selected on test" in text
    assert "*" not in format_rows([make_row()])


def test_no_rows_are_no_error():
    assert format_rows([]) == "no runs"


def test_runs_that_have_not_finished_say_so_instead_of_an_accuracy_and_below(make_row):
    diverged = {"top1": None, "mean_per_class": None, "status": "diverged", "updates": 40}
    rows = [make_row(seed=0), make_row(seed=1, **diverged), make_row("vpt", {"tokens": 10}, **diverged)]
    lines = format_rows(rows, mean_over_seeds=True).splitlines()
    cells = {line.split()[0]: line.split()[1:3] for line in lines[4:6]}
    assert cells == {"AdaptFormer-64": ["0", "96.40"], "VPT-deep-10": ["0", "diverged"]}
    assert "AdaptFormer-64: 1 of 2 seeds diverged at update 40" in lines
    assert "VPT-deep-10: 1 of 1 seed diverged at update 40" in lines
    single = format_rows([make_row(**diverged)])
    assert "top-1 accuracy %    diverged" in single


def test_what_came_of_a_run_is_a_small_table_of_at_most_80_columns(make_row):
    lines = format_result(make_row()).splitlines()
    assert lines[0].split() == ["val", "test"]
    assert lines[1].split() == ["top-1", "%", "96.00", "96.40"]
    assert lines[2].split() == ["per", "class", "%", "96.30"]
    assert [line.split()[0] for line in lines[3:]] == ["trained", "adapter", "training"]
    assert max(map(len, lines)) <= 80


def test_a_figure_that_a_run_does_not_have_gets_no_line(make_row):
    words = {"mae": "MAE, grades", "error": "MAE, standard deviations"}
    of_task = {"task_kind": "regression", "metric": "mae", "figure_words": words, "val_figure": 0.7}
    row = make_row(**of_task, figures={"mae": 0.8, "error": None}, top1=None, top5=None, mean_per_class=None)
    lines = format_result(row).splitlines()
    assert lines[1].split() == ["MAE", "grades", "0.700", "0.800"]
    assert not any("deviations" in line for line in lines)


def test_a_run_that_read_no_test_shows_val_alone_and_one_that_chose_on_test_says_so(make_row):
    assert "96.40" not in format_result(make_row(top1=None, mean_per_class=None))
    marked = format_result(make_row(protocol="best_test", val_top1=None))
    assert "96.40*" in marked
    assert marked.endswith("* epoch selected on test")
    assert "val" not in marked
