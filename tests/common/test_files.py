"""Files are replaced as a whole or not at all."""

import os
import pickle
import resource
import signal
import subprocess
import sys
import zipfile
from contextlib import contextmanager

import numpy as np
import pytest
import torch as th

from sb3_ezv2.common import files
from sb3_ezv2.common.files import new_folder, open_to_replace, remove_folder, replacing, write_text

LIMIT = 10_000


@contextmanager
def files_limited_to(n_bytes):
    """Let every write beyond ``n_bytes`` of a file fail, as on a full disk; what holds for root too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write_zip(file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a", bytes(3 * LIMIT))


WRITERS = {
    "bytes": lambda file: file.write(bytes(3 * LIMIT)),
    "zip": write_zip,
    "npz": lambda file: np.savez(file, a=np.zeros(3 * LIMIT)),
    "npz, compressed": lambda file: np.savez_compressed(file, a=np.random.default_rng(0).random(3 * LIMIT)),
    "torch": lambda file: th.save({"a": th.zeros(3 * LIMIT)}, file),
    "pickle": lambda file: pickle.dump(bytes(3 * LIMIT), file),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_object_replaces_the_file(tmp_path, writer):
    path = tmp_path / "model.zip"
    path.write_text("before")
    with open_to_replace(path) as file:
        WRITERS[writer](file)
        assert path.read_text() == "before"
    assert path.stat().st_size > LIMIT
    assert names_in(tmp_path) == ["model.zip"]


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_leaves_the_file_and_its_error_names_it(tmp_path, writer):
    path = tmp_path / "model.zip"
    path.write_text("before")
    with files_limited_to(LIMIT), pytest.raises(OSError, match="too large.*model.zip'$"), open_to_replace(path) as file:
        WRITERS[writer](file)
    assert path.read_text() == "before"
    assert names_in(tmp_path) == ["model.zip"]


def test_what_writes_to_a_path_keeps_its_suffix(tmp_path):
    path = tmp_path / "evaluations.npz"
    path.write_text("before")
    with replacing(path) as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".npz"
        np.savez(temporary, a=np.arange(3))
        assert path.read_text() == "before"
    assert np.load(path)["a"].tolist() == [0, 1, 2]
    assert names_in(tmp_path) == ["evaluations.npz"]


def test_an_error_of_what_writes_to_a_path_names_the_file(tmp_path):
    path = tmp_path / "evaluations.npz"
    with files_limited_to(LIMIT), pytest.raises(OSError, match="too large.*'.*/evaluations.npz'$"):
        with replacing(path) as temporary:
            np.savez(temporary, a=np.zeros(3 * LIMIT))
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), FileNotFoundError(2, "gone", "other")])
def test_an_error_in_the_block_passes_and_the_file_stands(tmp_path, error):
    write_text(tmp_path / "a.txt", "before")
    with pytest.raises(type(error)) as caught, open_to_replace(tmp_path / "a.txt") as file:
        file.write(b"after")
        raise error
    assert caught.value is error
    assert (tmp_path / "a.txt").read_text() == "before"
    assert names_in(tmp_path) == ["a.txt"]


def test_text_is_in_utf_8(tmp_path):
    write_text(tmp_path / "a.txt", "λ")
    assert (tmp_path / "a.txt").read_bytes() == "λ".encode()


def test_permissions_are_kept(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    path.chmod(0o640)
    write_text(path, "after")
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_new_file_has_the_usual_permissions(tmp_path):
    (tmp_path / "usual").write_text("")
    write_text(tmp_path / "ours", "")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_link_still_leads_to_the_file(tmp_path):
    (tmp_path / "file").write_text("before")
    (tmp_path / "link").symlink_to("file")
    write_text(tmp_path / "link", "after")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "after"


def test_what_is_no_regular_file_is_written_directly():
    write_text(os.devnull, "text")
    assert not os.path.isfile(os.devnull)


def test_a_folder_or_a_missing_one_is_refused_by_name(tmp_path):
    with pytest.raises(IsADirectoryError, match=tmp_path.name):
        write_text(tmp_path, "text")
    with pytest.raises(FileNotFoundError, match="/none/a.txt'$"):
        write_text(tmp_path / "none" / "a.txt", "text")


def test_content_reaches_the_disk_before_the_name_does(tmp_path, monkeypatch):
    order = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, f=original: (order.append(name), f(*a))[1])
    write_text(tmp_path / "a.txt", "text")
    assert order == ["fsync", "replace", "fsync"]


KILLED = """
import os, signal, sys
from sb3_ezv2.common.files import new_folder, open_to_replace
with open_to_replace(sys.argv[1]) as file, new_folder(sys.argv[2]) as folder:
    file.write(bytes(100_000))
    (folder / "a").write_text("text")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_destroys_nothing_and_the_next_one_cleans_up(tmp_path):
    path, folder = tmp_path / "a.txt", tmp_path / "folder"
    path.write_text("before")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path), str(folder)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_text() == "before" and not folder.exists()
    assert len(names_in(tmp_path)) == 3
    write_text(path, "after")
    with new_folder(folder):
        pass
    assert names_in(tmp_path) == ["a.txt", "folder"]


def test_temporary_files_in_use_stay(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    with open_to_replace(path) as first:
        first.write(b"first")
        write_text(path, "second")
        assert len(names_in(tmp_path)) == 2
    assert path.read_text() == "first"
    monkeypatch.setattr(files, "_HOST", "0123abcd")
    with open_to_replace(path) as first:
        first.write(b"third")
        files._in_use.clear()
        monkeypatch.undo()
        write_text(path, "second")
        assert len(names_in(tmp_path)) == 2
    assert path.read_text() == "third"


def test_a_folder_appears_whole(tmp_path):
    with new_folder(tmp_path / "folder") as folder:
        (folder / "a").write_text("a")
        (folder / "b").mkdir()
        (folder / "b" / "c").write_text("c")
        assert not (tmp_path / "folder").exists()
    assert names_in(tmp_path) == ["folder"] and (tmp_path / "folder" / "b" / "c").read_text() == "c"
    with pytest.raises(FileExistsError, match="/folder'$"), new_folder(tmp_path / "folder"):
        pass
    remove_folder(tmp_path / "folder")
    assert names_in(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_not_there_and_the_error_names_it(tmp_path):
    with files_limited_to(LIMIT), pytest.raises(OSError, match="too large.*'.*/folder/a'$"):
        with new_folder(tmp_path / "folder") as folder, open_to_replace(folder / "a") as file:
            file.write(bytes(3 * LIMIT))
    assert names_in(tmp_path) == []


def names_in(folder):
    return sorted(os.listdir(folder))
