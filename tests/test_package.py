"""What is published: the wheel and the sdist, and the wheel where nothing else is."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest

from tests.generate import ROOT
from tests.singer import clean_environment, config_for, parse

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Serve

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

VERSION = version("tap-homele")
MODULES = {
    path.relative_to(ROOT).as_posix() for path in (ROOT / "tap_homele").rglob("*.py")
}


def command(*arguments: str | Path, **options: object) -> str:
    result = subprocess.run(  # type: ignore[call-overload]
        arguments,
        capture_output=True,
        text=True,
        check=False,
        env=clean_environment(),
        **options,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    out: str = result.stdout
    return out


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command("uv", "build", "--out-dir", folder, cwd=ROOT)
    return folder


@pytest.fixture(scope="module")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel where nothing else is; give the folder of its commands."""
    folder = tmp_path_factory.mktemp("environment")
    command("uv", "venv", "--python", sys.executable, folder)
    python = folder / "bin" / "python"
    command("uv", "pip", "install", "--python", python, *dist.glob("*.whl"))
    return folder / "bin"


def test_the_wheel_has_the_package_and_no_more(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    about = f"tap_homele-{VERSION}.dist-info"

    assert wheel.name == f"tap_homele-{VERSION}-py3-none-any.whl"
    assert names == MODULES | {
        "tap_homele/py.typed",
        f"{about}/METADATA",
        f"{about}/RECORD",
        f"{about}/WHEEL",
        f"{about}/entry_points.txt",
        f"{about}/licenses/LICENSE",
    }


def test_the_sdist_has_what_the_wheel_is_made_of(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}

    assert names == MODULES | {
        "tap_homele/py.typed",
        *(".gitignore", "CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md"),
        "pyproject.toml",
    }


def test_the_index_would_take_them(dist: Path) -> None:
    files = [*dist.glob("tap_homele-*")]
    assert len(files) == 2

    command("uvx", "twine", "check", "--strict", *files)


def test_it_answers_without_a_config(installed: Path, tmp_path: Path) -> None:
    tap = installed / "tap-homele"
    about = json.loads(command(tap, "--about", "--format", "json", cwd=tmp_path))
    catalog = json.loads(command(tap, "--discover", cwd=tmp_path))

    said = command(tap, "--version", cwd=tmp_path)
    assert said.startswith(f"tap-homele v{VERSION}, Meltano SDK v0.54.")
    assert about["version"] == VERSION
    assert [stream["tap_stream_id"] for stream in catalog["streams"]] == ["customers"]


def test_it_syncs(installed: Path, serve: Serve, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(config_for(serve(150))))

    said = command(installed / "tap-homele", "--config", config, cwd=tmp_path)

    assert len(parse(said).records) == 150


def test_the_extra_for_made_up_values(dist: Path, serve: Serve, tmp_path: Path) -> None:
    """Without it, ``fake`` is not known to a stream map."""
    (wheel,) = dist.glob("*.whl")
    settings = config_for(
        serve(20),
        stream_maps={"customers": {"name": "fake.name()"}},
        faker_config={"seed": 7, "locale": "en_US"},
    )
    config = tmp_path / "config.json"
    config.write_text(json.dumps(settings))
    extra = f"tap-homele[faker] @ {wheel.as_uri()}"

    said = command("uvx", "--from", extra, "tap-homele", "--config", config)

    records = parse(said).records
    assert len({record["name"] for record in records}) == len(records) == 20


def test_no_file_has_two_owners(installed: Path) -> None:
    """Above all not ``backoff/``, which two distributions own."""
    code = (
        "import importlib.metadata as m; print(*("
        "f'{file} {d.name}' for d in m.distributions() for file in d.files or ()"
        " if not str(file).startswith('..')), sep='\\n')"
    )
    lines = command(installed / "python", "-c", code).splitlines()
    owners: dict[str, set[str]] = {}
    for line in lines:
        file, _, owner = line.rpartition(" ")
        owners.setdefault(file, set()).add(owner)

    assert owners["backoff/__init__.py"] == {"python-backoff"}
    assert {file: of for file, of in owners.items() if len(of) > 1} == {}
