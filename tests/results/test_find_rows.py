"""Rows are found in files, run folders and trees, those of runs that have not finished among them."""

import json

import pytest

from vision_peft.results.find_rows import find_rows, find_runs
from vision_peft.results.row import write_row


def test_rows_are_found_in_files_run_folders_and_trees_each_once(make_row, tmp_path):
    for seed, folder in enumerate(["a/run", "b/deep/run", "c"]):
        write_row(tmp_path / folder / "result.json", make_row(seed=seed))
    assert [row.seed for row in find_rows([tmp_path])] == [0, 1, 2]
    assert [row.seed for row in find_rows([tmp_path / "c" / "result.json", tmp_path / "b" / "deep" / "run"])] == [2, 1]
    assert [row.seed for row in find_rows([tmp_path / "c", tmp_path, tmp_path / "a" / ".." / "c"])] == [2, 0, 1]


def test_what_lies_inside_a_run_belongs_to_that_run(make_row, tmp_path):
    write_row(tmp_path / "run" / "result.json", make_row(seed=7))
    write_row(tmp_path / "run" / "first_stage" / "result.json", make_row(seed=8))
    assert [row.seed for row in find_rows([tmp_path])] == [7]


def test_unfinished_runs_and_empty_folders_are_named_and_left_out(make_row, tmp_path, caplog):
    write_row(tmp_path / "done" / "result.json", make_row())
    (tmp_path / "open" / "state").mkdir(parents=True)
    (tmp_path / "open" / "config.yaml").touch()
    (tmp_path / "nothing").mkdir()
    assert len(find_rows([tmp_path, tmp_path / "nothing"])) == 1
    assert f"{tmp_path / 'open'} has not finished (no result.json yet): left out" in caplog.messages
    assert f"{tmp_path / 'nothing'} does not contain a run: left out" in caplog.messages


def test_linked_folders_are_named_and_followed_where_the_user_names_them(make_row, tmp_path, caplog):
    write_row(tmp_path / "elsewhere" / "result.json", make_row(seed=1))
    write_row(tmp_path / "runs" / "a" / "result.json", make_row(seed=0))
    link = tmp_path / "runs" / "b"
    link.symlink_to(tmp_path / "elsewhere")
    assert [row.seed for row in find_rows([tmp_path / "runs"])] == [0]
    assert f"links to folders, which are followed only where they are named ({link}): left out" in caplog.messages
    assert [row.seed for row in find_rows([tmp_path / "runs" / "a", link])] == [0, 1]


def test_only_unfinished_runs_are_an_error_that_names_them(tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "config.yaml").touch()
    (tmp_path / "open" / "log.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"no result found: .*open has not finished"):
        find_rows([tmp_path])


def test_an_empty_folder_and_an_empty_list_are_errors_that_say_what_is_wanted(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"does not contain a run; wanted a result.json, a run folder"):
        find_rows([tmp_path])
    with pytest.raises(FileNotFoundError, match="no path given"):
        find_rows([])


def test_all_missing_paths_are_named_with_the_nearest_name(make_row, tmp_path):
    write_row(tmp_path / "digits" / "result.json", make_row())
    with pytest.raises(FileNotFoundError) as error:
        find_rows([tmp_path / "digit", tmp_path / "digits", tmp_path / "elsewhere" / "x"])
    assert f"digit (did you mean {tmp_path / 'digits'}?)" in str(error.value)
    assert str(tmp_path / "elsewhere" / "x") in str(error.value)


def test_all_bad_rows_of_a_tree_are_reported_at_once(make_row, tmp_path):
    write_row(tmp_path / "good" / "result.json", make_row())
    write_row(tmp_path / "bad" / "result.json", make_row())
    path = tmp_path / "bad" / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seed": "x"}))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "result.json").write_text("{")
    with pytest.raises(ValueError, match=r"bad/result.json is not a result row(.|\n)*broken/result.json is not valid"):
        find_rows([tmp_path])


def test_the_row_so_far_of_an_unfinished_run_is_found_and_its_result_goes_before(make_row, tmp_path, caplog):
    for folder, status in (("a", "diverged"), ("b", "unfinished"), ("c", "stopped")):
        row = make_row(seed=ord(folder), top1=None, status=status)
        write_row(tmp_path / folder / "status.json", row)
    write_row(tmp_path / "c" / "result.json", make_row(seed=ord("c")))
    found = find_runs([tmp_path])
    assert [row.status for row in found.rows] == ["diverged", "unfinished", "finished"]
    assert found.without_row == []
    assert caplog.messages == [
        f"{tmp_path / 'a'} has not finished (diverged): left out",
        f"{tmp_path / 'b'} has not finished (unfinished): left out",
    ]


def test_unfinished_runs_of_earlier_versions_are_listed(make_row, tmp_path):
    write_row(tmp_path / "done" / "result.json", make_row())
    (tmp_path / "open" / "state").mkdir(parents=True)
    (tmp_path / "open" / "config.yaml").touch()
    assert find_runs([tmp_path, tmp_path / "open"]).without_row == [tmp_path / "open"]
