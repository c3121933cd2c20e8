"""Archives of strangers: what torchvision unpacks for us stays below its folder."""

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from torchvision.datasets.utils import extract_archive

from vision_peft.data.annotations.download import Official
from vision_peft.data.datasets.food101 import Food101

Fill = Callable[[tarfile.TarFile], None]


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    return info


def of(*members: tarfile.TarInfo) -> Fill:
    def fill(archive: tarfile.TarFile) -> None:
        for info in members:
            data = b"evil" if info.isfile() else b""
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))

    return fill


HOSTILE: dict[str, tuple[tarfile.TarInfo, ...]] = {
    "up": (member("../escaped.txt"),),
    "up and down": (member("a/../../escaped.txt"),),
    "link to a file": (member("link", tarfile.SYMTYPE, "../escaped.txt"), member("link")),
    "link to a folder": (member("link", tarfile.SYMTYPE, ".."), member("link/escaped.txt")),
    "link inside": (member("link", tarfile.SYMTYPE, "food-101"),),
    "hard link": (member("link", tarfile.LNKTYPE, "../secret"),),
    "device": (member("zero", tarfile.CHRTYPE),),
    "pipe": (member("pipe", tarfile.FIFOTYPE),),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def write(file: Path, fill: Fill) -> None:
    with tarfile.open(file, "w:gz") as archive:
        fill(archive)


def food_101(root: Path, fill: Fill, monkeypatch: pytest.MonkeyPatch) -> None:
    """Load Food-101 from an archive that the official address gives us and whose MD5 is the right one."""

    def download(url: str, folder: str, filename: str | None = None, md5: str | None = None) -> None:
        write(Path(folder, filename or url.rpartition("/")[2]), fill)

    monkeypatch.setattr("torchvision.datasets.utils.download_url", download)
    Food101(root=str(root), download=True).load("train")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_tar_that_leads_out_of_its_folder_is_refused(root: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConnectionError, match=r"cannot download .*food-101") as refused:
        food_101(root, of(*HOSTILE[name]), monkeypatch)
    assert "\n" not in str(refused.value)
    assert sorted(path.name for path in root.parent.iterdir()) == ["root", "secret"]
    assert not [path for path in root.rglob("*") if path.is_symlink()]
    assert (root.parent / "secret").stat().st_nlink == 1


def test_an_absolute_path_lands_below_the_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = root.parent / "escaped.txt"
    with pytest.raises((ConnectionError, FileNotFoundError)):
        food_101(root, of(member(str(outside))), monkeypatch)
    assert not outside.exists()


def test_dangerous_modes_are_taken_off(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((ConnectionError, FileNotFoundError)):
        food_101(root, of(member("food-101/tool", mode=0o6777)), monkeypatch)
    assert (root / "food-101" / "tool").stat().st_mode & 0o6022 == 0


def test_a_zip_stays_below_its_folder(root: Path) -> None:
    with zipfile.ZipFile(root / "a.zip", "w") as archive:
        archive.writestr("../escaped.txt", "evil")
        archive.writestr(f"{root.parent}/escaped2.txt", "evil")

    def read(folder: Path, download: bool) -> Path:
        if not download:
            raise RuntimeError("not there")
        return Path(extract_archive(folder / "a.zip", folder))

    Official(family="things", files={}, archive="http://a").read(root, read, True)
    assert sorted(path.name for path in root.parent.iterdir()) == ["root", "secret"]


def test_the_default_of_tarfile_is_as_it_was_afterwards(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tarfile.TarFile.__dict__.get("extraction_filter")
    with pytest.raises(ConnectionError):
        food_101(root, of(*HOSTILE["up"]), monkeypatch)
    assert tarfile.TarFile.__dict__.get("extraction_filter") is before


def test_an_archive_with_another_md5_is_not_unpacked(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(url: str, file: str) -> None:
        write(Path(file), of(member("food-101/images/a.jpg")))

    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", lambda url, max_hops: url)
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", fetch)
    with pytest.raises(ConnectionError, match="File not found or corrupted"):
        Food101(root=str(root), download=True).load("train")
    assert not (root / "food-101").exists()
