"""Labels say in what settings differ from those beside them, and no two of a panel are the same."""

from collections.abc import Callable, Sequence

from vision_peft.results.labels import disambiguate
from vision_peft.results.row import Row
from vision_peft.results.settings import group_by_seed

MakeRow = Callable[..., Row]


def make_labels(rows: Sequence[Row]) -> list[str]:
    settings = group_by_seed(rows)
    return disambiguate([setting.row.label for setting in settings], [[setting] for setting in settings])


def make_settings(make_row: MakeRow, *several: dict[str, object], name: str = "lora") -> list[Row]:
    """Rows of one method that differ in `settings`."""
    return [
        make_row(
            name,
            {"rank": 8, "alpha": 8},
            setting=f"{name} {settings}",
            settings={f"recipe.{key}": value for key, value in settings.items()},
        )
        for settings in several
    ]


def test_five_runs_that_differ_in_their_settings_have_five_labels_that_say_so(make_row: MakeRow) -> None:
    rows = make_settings(
        make_row, {}, {"augment": "flip"}, {"label_smoothing": 0.3, "optimizer": "sgd"}, {"mixup": 0.8}
    )
    rows += make_settings(make_row, {"schedule": "constant"})
    rows[-1].precision = "bf16"
    assert make_labels(rows) == [
        "LoRA-8",
        "LoRA-8 (augment=flip)",
        "LoRA-8 (label_smoothing=0.3, optimizer=sgd)",
        "LoRA-8 (mixup=0.8)",
        "LoRA-8 (precision=bf16, schedule=constant)",
    ]


def test_methods_that_were_trained_unlike_the_others_of_their_panel_are_marked(make_row: MakeRow) -> None:
    rows = [make_row(), make_row("lora", {"rank": 8}), make_row("linear", {}, epochs=100, lr=0.5)]
    assert make_labels(rows) == ["AdaptFormer-64", "LoRA-8", "linear probe (epochs=100)"]


def test_an_attentive_head_alone_is_a_probe_of_that_name(make_row: MakeRow) -> None:
    chosen = {"recipe.head": "attentive", "recipe.head_options.depth": 2}
    heads = {"attentive": {"recipe.head": "attentive"}, "attentive depth=2": chosen, "linear": {}}
    rows = [make_row("linear", {}, head=head, setting=head, settings=of) for head, of in heads.items()]
    rows += [make_row("lora", {"rank": 8}, head="attentive", settings={"recipe.head": "attentive"})]
    assert make_labels(rows) == [
        "attentive probe",
        "attentive probe (head=attentive depth=2)",
        "linear probe",
        "LoRA-8 (head=attentive)",
    ]


def test_where_most_share_no_value_all_are_marked(make_row: MakeRow) -> None:
    rows = [make_row(epochs=5), make_row("lora", {"rank": 8}, epochs=10)]
    assert make_labels(rows) == ["AdaptFormer-64 (epochs=5)", "LoRA-8 (epochs=10)"]


def test_a_default_goes_without_saying_also_where_most_have_another_value(make_row: MakeRow) -> None:
    rows = make_settings(make_row, {"mixup": 0.8, "lr": 1}, {"mixup": 0.8, "lr": 2}, {}, name="lora")
    rows[0].lr, rows[1].lr = 1.0, 2.0
    assert make_labels(rows) == ["LoRA-8 (mixup=0.8, lr=1.0)", "LoRA-8 (mixup=0.8, lr=2.0)", "LoRA-8"]


def test_a_label_is_the_same_on_all_panels_and_names_no_difference_between_them(make_row: MakeRow) -> None:
    rows = [
        *(make_row(task="a", **of) for of in ({}, {"name": "linear", "fields": {}, "epochs": 100})),
        *(make_row(name, {"rank": 8}, task="b") for name in ("lora", "dora", "vera")),
        make_row("linear", {}, task="b", epochs=100),
    ]
    assert make_labels(rows) == [
        "AdaptFormer-64",
        "linear probe (epochs=100)",
        "LoRA-8",
        "dora-8",
        "VeRA-8",
        "linear probe (epochs=100)",
    ]
    rows = [make_row(task="a", epochs=7), make_row(task="b", epochs=5), make_row(img_size=56, batch_size=8)]
    assert make_labels(rows) == ["AdaptFormer-64"] * 3


def test_other_weights_other_data_and_early_rows_are_told_apart(make_row: MakeRow) -> None:
    files = [{"checkpoint": name, "sha256": digest} for name, digest in (("a.pth", "1" * 64), ("a.pth", "2" * 64))]
    rows = [
        make_row(setting=str(place), settings={f"backbone.{key}": value for key, value in file.items()})
        for place, file in enumerate(files)
    ]
    assert make_labels(rows) == ["AdaptFormer-64 (sha256=11111111)", "AdaptFormer-64 (sha256=22222222)"]
    rows = [make_row(data_digest=digit * 64) for digit in "34"]
    assert make_labels(rows) == ["AdaptFormer-64 (data=33333333)", "AdaptFormer-64 (data=44444444)"]
    rows = [make_row(), make_row(setting=None, settings=None), make_row("linear", {})]
    assert make_labels(rows) == ["AdaptFormer-64", "AdaptFormer-64 (settings=unknown)", "linear probe"]


def test_data_are_not_named_where_trials_alone_differ_in_them(make_row: MakeRow) -> None:
    """A trial does not read test, so that the digest of its data is another one."""
    trials = [
        make_row("lora", {"rank": 4}, setting=f"{lr}", lr=lr, top1=None, data_digest="3" * 64) for lr in (1, 2, 3)
    ]
    chosen = [make_row("lora", {"rank": rank}, setting=f"chosen {rank}", data_digest="4" * 64) for rank in (4, 8)]
    assert make_labels([*trials, *chosen]) == [
        "LoRA-4 (lr=1)",
        "LoRA-4 (lr=2)",
        "LoRA-4 (lr=3)",
        "LoRA-4 (lr=0.001)",
        "LoRA-8",
    ]
    chosen[1].data_digest = "5" * 64
    assert make_labels([*trials, *chosen])[-1] == "LoRA-8 (data=55555555)"


def test_settings_of_which_no_field_is_shown_are_told_apart_by_their_digest(make_row: MakeRow) -> None:
    rows = [make_row(setting=digit * 16, settings={"backbone.name": "vit"}) for digit in "56"]
    assert make_labels(rows) == [f"AdaptFormer-64 (setting={digit * 16})" for digit in "56"]


def test_long_values_are_shortened_and_still_told_apart(make_row: MakeRow) -> None:
    several = [[1.0] * 5000 + [weight] + [1.0] * 5000 for weight in (2.0, 3.0)]
    rows = [make_row(setting=str(n), settings={"class_weights": weights}) for n, weights in enumerate(several)]
    assert make_labels(rows) == ["AdaptFormer-64 (setting=0)", "AdaptFormer-64 (setting=1)"]


def test_of_very_many_settings_the_first_are_named_and_labels_still_differ(make_row: MakeRow) -> None:
    several = [{f"key{n}": value for n in range(500)} for value in (1, 2)]
    several.append({**several[1], "key499": 3})
    labels = make_labels([make_row(setting=str(n), settings=settings) for n, settings in enumerate(several)])
    assert labels[0].startswith("AdaptFormer-64 (key0=1, key1=1, ")
    assert labels[0].endswith("key19=1, 480 more)")
    assert len(set(labels)) == 3
    assert max(map(len, labels)) < 500


def test_the_length_of_a_path_is_no_number_of_epochs_to_be_told(make_row: MakeRow) -> None:
    solved = [{"epoch": n + 1, "penalty": 10.0**-n, "val_top1": 90.0} for n in range(15)]
    voted = [{"epoch": 1, "k": 5, "val_top1": 80.0}]
    rows = [
        make_row(),
        make_row("linear", {}, epochs=15, curve=solved),
        make_row("knn", {"k": 5}, epochs=1, curve=voted),
    ]
    assert make_labels(rows) == ["AdaptFormer-64", "linear probe", "k-NN-5"]
    rows += [make_row("linear", {}, epochs=9, curve=solved[:9], setting="9")]
    assert make_labels(rows)[1::2] == ["linear probe (epochs=15)", "linear probe (epochs=9)"], "but to tell two apart"
