"""Stand-ins for the Hugging Face Hub that keep everything on this machine, and repairs of the way to it."""

import importlib
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import huggingface_hub
import imageio_ffmpeg
import rl_zoo3
from huggingface_hub.errors import EntryNotFoundError
from huggingface_hub.repocard import metadata_save
from requests import Response
from requests.exceptions import HTTPError

from sb3_ezv2.common.archives import archive_parts
from sb3_ezv2.model_files import SavedAlgorithm
from sb3_ezv2.policy_files import is_policy_archive
from sb3_ezv2.zoo.replacing import replaced
from sb3_ezv2.zoo.settings_files import check_metrics, read_settings

METRICS = "train_eval_metrics.zip"
TRUST = "TRUST_REMOTE_CODE"
"""Variable that the hub's library asks for before it brings anything; here, before what may execute code."""


class OfflineHub:
    """What the zoo calls of ``huggingface_hub.HfApi``, without a connection: nothing is fetched and nothing is sent."""

    def create_repo(self, repo_id: str, **_: Any) -> str:
        """Where the repository would be."""
        return f"https://huggingface.co/{repo_id}"

    def snapshot_download(self, repo_id: str, local_dir: Path) -> str:
        """Begin with an empty repository."""
        Path(local_dir).mkdir(parents=True, exist_ok=True)
        return str(local_dir)

    def upload_folder(self, repo_id: str, folder_path: Path, **_: Any) -> None:
        """Say what would be sent."""
        files = sorted(path for path in Path(folder_path).rglob("*") if path.is_file())
        print(f"Dry run, nothing is sent. {len(files)} files for {repo_id}:")
        for path in files:
            print(f"  {path}")


def local_file(folder: str) -> Callable[[str, str], str]:
    """A function in the place of ``huggingface_sb3.load_from_hub`` that takes files from a folder.

    :param folder: holds one folder for each repository, as ``push_to_hub --dry-run`` leaves them
    :raises FileNotFoundError: if there is no such folder
    """
    if not folder.strip() or not Path(folder).is_dir():
        raise FileNotFoundError(f"--local: there is no folder {folder}")

    def load(repo_id: str, filename: str) -> str:
        path = Path(folder) / repo_id.split("/")[-1] / filename
        if not path.is_file():
            raise HTTPError(f"{path} does not exist", response=Response())
        return str(path)

    return load


def fetch(repo_id: str, filename: str) -> str:
    """A function in the place of ``huggingface_sb3.load_from_hub``; policies and settings need no trust.

    :param repo_id: of the repository
    :param filename: in it
    :return: path of the file
    :raises HTTPError: if there is no such file
    :raises ValueError: if loading the file may execute code, and nobody has said that it is trusted
    """
    try:
        path = huggingface_hub.hf_hub_download(repo_id, filename, library_name="huggingface-sb3")
    except EntryNotFoundError as error:
        raise HTTPError(str(error), response=Response()) from error  # what the zoo expects
    if _may_execute(path, filename) and os.environ.get(TRUST, "").lower() not in ("1", "true", "yes", "on"):
        raise ValueError(
            f"loading {filename} of {repo_id} may execute Python code that is pickled in it; set {TRUST}=True if you "
            "trust its author"
        )
    return path


def _may_execute(path: str, filename: str) -> bool:
    if filename.endswith(".zip") and filename != METRICS:
        with open(path, "rb") as file:
            return not is_policy_archive(archive_parts(file, path))
    return filename.endswith(".pkl")


def save_for_the_hub(model: SavedAlgorithm, path: str | os.PathLike[str]) -> None:
    """In the place of ``save``, from which the hub gets its file: the policy alone, which executes nothing.

    :param model: to be shared
    :param path: of the file without its suffix ``.zip``, which the zoo expects
    """
    model.save_policy(f"{os.fspath(path)}.zip")


class FolderOfTheRun:
    """Lets ``rl_zoo3.load_from_hub`` make a folder that was not there; by itself it would share one."""

    def __init__(self) -> None:
        self.is_taken = False
        """Whether another process was faster, so that another number is needed."""
        self._path = ""

    @contextmanager
    def made_exclusively(self) -> Iterator[None]:
        """Inside, the next number of a run is used only if its folder is new."""
        get_latest_run_id, makedirs = rl_zoo3.get_latest_run_id, os.makedirs
        is_mine = False

        def latest_run_id(log_path: str, env_name: str) -> int:
            number = get_latest_run_id(log_path, env_name)
            self._path = os.path.join(log_path, f"{env_name}_{number + 1}")
            return number

        def make(name: str, mode: int = 0o777, exist_ok: bool = False) -> None:
            nonlocal is_mine
            makedirs(name, mode, exist_ok and name != self._path)
            is_mine = is_mine or name == self._path

        try:
            with replaced(rl_zoo3, "get_latest_run_id", latest_run_id), replaced(os, "makedirs", make):
                yield
        except (FileExistsError, ValueError):
            self.is_taken = bool(self._path) and not is_mine and os.path.isdir(self._path)
            if not self.is_taken:
                raise


def checked_file(load: Callable[[str, str], str]) -> Callable[[str, str], str]:
    """A function in the place of ``huggingface_sb3.load_from_hub`` that looks at a file before the zoo takes it.

    :param load: brings a file of a repository
    """

    def checked(repo_id: str, filename: str) -> str:
        """Bring a file.

        :raises ValueError: if it is damaged, or holds what would have to be run and need not be
        """
        path = load(repo_id, filename)
        if filename.endswith(".yml"):
            read_settings(Path(path))
        elif filename == METRICS:
            try:
                with zipfile.ZipFile(path) as archive:
                    check_metrics(archive.namelist(), path)
            except zipfile.BadZipFile as error:
                raise ValueError(f"{path} is damaged: {error}") from error
        return path

    return checked


def own_card(path: Path, metadata: dict[str, Any]) -> None:
    """The zoo's ``metadata_save``, after the model card names the commands that know this algorithm.

    :param path: of the model card
    :param metadata: of the model
    """
    card = path.read_text(encoding="utf-8")
    for name in ("load_from_hub", "enjoy", "train", "push_to_hub"):
        card = card.replace(f"python -m rl_zoo3.{name}", f"python -m sb3_ezv2.{name}")
    card = card.replace("Install the RL Zoo (with SB3 and SB3-Contrib):", "Install the package with the RL Zoo:")
    card = card.replace("If you installed the RL Zoo3 via pip (`pip install rl_zoo3`)", "If you installed the package")
    card = card.replace("pip install rl_zoo3", "pip install 'sb3_ezv2[zoo]'")
    path.write_text(card, encoding="utf-8")
    metadata_save(path, metadata)


def mend_metadata() -> None:
    """Give rl-zoo3 the function ``generate_metadata`` that it imports.

    Version 3.2 of sb3-team-hf-integration, which rl-zoo3 2.9 accepts, has renamed it and returns another type, so that
    ``rl_zoo3.push_to_hub`` cannot be imported.
    """
    module: Any = importlib.import_module("huggingface_sb3.push_to_hub")
    if not hasattr(module, "generate_metadata"):

        def generate_metadata(*arguments: Any) -> dict[str, Any]:
            metadata: dict[str, Any] = module._generate_metadata(*arguments).to_dict()
            return metadata

        module.generate_metadata = generate_metadata


@contextmanager
def ffmpeg_on_path() -> Iterator[None]:
    """Let the hub's library, which calls ``ffmpeg`` by name, find the one of imageio-ffmpeg where there is no other."""
    if shutil.which("ffmpeg"):
        yield
        return
    program, path = Path(imageio_ffmpeg.get_ffmpeg_exe()), os.environ.get("PATH", os.defpath)
    with TemporaryDirectory() as folder:
        link = Path(folder) / f"ffmpeg{program.suffix if os.name == 'nt' else ''}"
        try:
            link.symlink_to(program)
        except OSError:  # Windows gives links to administrators only
            shutil.copy(program, link)
        os.environ["PATH"] = folder + os.pathsep + path
        try:
            yield
        finally:
            os.environ["PATH"] = path
