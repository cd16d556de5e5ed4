"""Tables of image files: columns, splits, groups, and what is refused."""

import os
from pathlib import Path

import pytest
import torch
from dataset_files import write_images

from compress.data.csv_files import open_csv
from compress.data.open_dataset import open_dataset
from compress.data.source import Files
from compress.runtime.errors import UserError


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    """Paths of 20 images, half of them cats."""
    write_images(tmp_path / "images", ["cat", "dog"], 10)
    return sorted(str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*/*/*.*"))


def write_table(folder: Path, *lines: str) -> Path:
    table = folder / "labels.csv"
    table.write_text("\n".join(lines) + "\n")
    return table


def label(path: str) -> str:
    return Path(path).parent.name


def names(images: object) -> tuple[str, ...]:
    assert isinstance(images, Files)
    return images.names


def test_paths_are_relative_to_the_table_and_a_fifth_is_held_out(
    tmp_path: Path, images: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write_table(tmp_path, "path,label", *(f"{each},{label(each)}" for each in images))
    monkeypatch.chdir(tmp_path.parent)
    source = open_csv(Path(os.path.relpath(table)))
    assert source.classes == ("cat", "dog") and source.held_out
    assert source.test().targets.bincount().tolist() == [2, 2]
    assert sorted(names(source.train) + names(source.test())) == images
    data = open_dataset(f"csv:{table}", image_size=8)
    assert data.name == f"csv:{table}" and len(data.test()) == 4 and len(data.train) == 14


@pytest.mark.parametrize("header", ["File;Class;Subset", "split\tpath\tlabel"])
def test_columns_have_usual_names_in_any_order(
    tmp_path: Path, images: list[str], header: str
) -> None:
    sign = ";" if ";" in header else "\t"
    lines = [header]
    for number, each in enumerate(images):
        split = ("Training", "valid", "TEST")[number % 3]
        cells = [each, label(each), split]
        lines.append(sign.join(cells if sign == ";" else [cells[2], *cells[:2]]))
    source = open_csv(write_table(tmp_path, *lines))
    assert source.val is not None and not source.held_out
    assert [len(each.targets) for each in (source.train, source.val, source.test())] == [7, 7, 6]


def test_groups_stay_on_one_side_of_all_splits(tmp_path: Path, images: list[str]) -> None:
    lines = [f"{each},{label(each)},{label(each)}-{number // 2}" for number, each in
             enumerate(images)]  # fmt: skip
    data = open_dataset(
        f"csv:{write_table(tmp_path, 'path,label,group', *lines)}", val_fraction=0.2
    )
    group = {line.split(",")[0]: line.split(",")[2] for line in lines}
    parts = [
        {group[name] for name in names(each)}
        for each in (data.train_images, data.val_images, data.test_images())
    ]
    assert all(parts) and sum(map(len, parts)) == len(set().union(*parts)) == 10
    assert torch.equal(data.train_images.targets.unique(), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (["path,lable", "a.png,cat"], r"line 1: no column 'label'.*did you mean 'lable'"),
        (["path,label", "images/cat/0.png"], "line 2: has 1 of at least 2 columns"),
        (["path,label", "{0},cat", "", "{1},"], "line 4: label is empty"),
        (["path,label,split", "{0},cat,train", "{1},cat,holdback"], "line 3: split 'holdback'"),
        (["path,label", "{0},cat", "{0},dog"], r"line 3: .* is in line 2 already"),
        (["path,label", "{0},cat", "./{0},dog"], r"line 3: .* is in line 2 already"),
        (["path,label", "{0},cat", "images/../{0},dog"], r"line 3: .* is in line 2 already"),
        (["path,label", "{0},cat", "a\0.png,dog"], "line 3: path holds a NUL byte"),
        (["path,label", '{0},"a', 'cat"', "{1},dog"], "line 2: label holds a line break"),
        (["path,label", "{0},cat", '"{1},dog', "{2},dog"], "line 3: has 1 of at least 2"),
        (["path,label,Label", "{0},cat,dog"], "line 1: 'label' names several columns"),
        (["path,label,split,group", "{0},cat,train,a", "{1},cat,test,a"], "line 3: group 'a'"),
        (["path,label", "nowhere/a.png,cat"], r"line 2: there is no file .*nowhere/a.png"),
        (["path,label", "a" * 300 + ",cat"], r"line 2: there is no file .*aaa"),
        (["path,label", "b\\" + "a" * 300 + ",cat"], r"line 2: there is no file .*b/aaa"),
        (["path,label,split", "{0},cat,train", "{1},dog,test"], "no image of 'dog' in the train"),
        (["path,label,split", "{0},cat,test"], "no training images"),
        (["path,label"], "no lines below its header"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(
    tmp_path: Path, images: list[str], lines: list[str], found: str
) -> None:
    table = write_table(tmp_path, *(line.format(*images) for line in lines))
    with pytest.raises(UserError, match=found) as error:
        open_csv(table)
    assert str(error.value).startswith(f"csv:{table}: ") and "\n" not in str(error.value)


def test_a_file_has_one_row_however_its_path_is_written(tmp_path: Path, images: list[str]) -> None:
    lines = [f"{each},{label(each)}" for each in [*images, tmp_path / images[0]]]
    with pytest.raises(UserError, match=r"line 22: .* is in line 2 already"):
        open_csv(write_table(tmp_path, "path,label", *map(str, lines)))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_tables_come_from_any_system(
    tmp_path: Path, images: list[str], encoding: str, end: str
) -> None:
    """Paths of Windows, and signs in labels that Unicode takes for ends of lines."""
    labels = ["caf\u00e9\u2028big", "cafe\u0301\u2028big", "a\x0cb"]
    rows = [each.replace("/", "\\") + f'\t"{labels[row % 3]}"' for row, each in enumerate(images)]
    text = end.join(["path\tlabel", *rows])
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (tmp_path / "labels.tsv").write_bytes((mark + text).encode(encoding))
    source = open_csv(tmp_path / "labels.tsv")
    assert source.classes == (labels[2], labels[0])
    assert sorted(names(source.train) + names(source.test())) == images


def test_a_line_says_which_of_several_columns_is_taken(tmp_path: Path, images: list[str]) -> None:
    lines = [f"7,{label(each)},{each}" for each in images]
    source = open_csv(write_table(tmp_path, "target,label,path", *lines))
    assert source.classes == ("cat", "dog")
    assert any("'label'" in note and "'target'" in note for note in source.notes)


def test_a_row_that_names_a_folder_says_so(tmp_path: Path, images: list[str]) -> None:
    lines = [f"{each},{label(each)}" for each in [*images, "images/cat"]]
    table = write_table(tmp_path, "path,label", *lines)
    with pytest.raises(UserError, match=r"images/cat \(a folder, not an image\)"):
        open_dataset(f"csv:{table}", verify=True)


@pytest.mark.parametrize("sign", [";", "|"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_first_line_may_name_the_delimiter(
    tmp_path: Path, images: list[str], sign: str, mark: str
) -> None:
    """As Excel reads it; lines in messages are those of the file."""
    lines = [sign.join((each, label(each), "1,5")) for each in images]
    header = sign.join(("path", "label", "weight"))
    table = write_table(tmp_path, f"{mark}sep={sign}\r\n{header}", *lines)
    assert open_csv(table).classes == ("cat", "dog")
    table = write_table(tmp_path, f"sep={sign}\n{header}", *lines, lines[0])
    with pytest.raises(UserError, match=f"line {len(lines) + 3}: .* is in line 3"):
        open_csv(table)


def test_a_table_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(b"\xff\xfe\x00path")
    with pytest.raises(UserError, match="UTF-8 or UTF-16") as error:
        open_csv(tmp_path / "labels.csv")
    assert str(error.value).count("labels.csv") == 1
