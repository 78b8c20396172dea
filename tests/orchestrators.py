"""Run what ``docs/orchestrators`` has in the real Airflow and Dagster, by hand.

``uv run python -m tests.orchestrators`` installs both in a temporary folder, which
takes a few minutes, and loads two companies into a PostgreSQL with each.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psycopg

from tests.readme import OPERATING, block
from tests.sandbox import Sandbox
from tests.sandbox.postgres import postgres
from tests.singer import clean_environment
from tests.test_meltano import ROOT, use

AIRFLOW, DAGSTER = "apache-airflow==3.3.2", "dagster==1.13.28"
CUSTOMERS = 150


def company(name: str) -> str:
    """Give the environment of a company, as ``docs/operating.md`` shows it."""
    shown = block("## Several companies", "yaml", OPERATING)
    with_token = shown.replace("$ACME_TOKEN", "1|sandbox")
    return re.sub("acme", name, with_token)


def copy_of_the_project(folder: Path, sandbox: Sandbox, url: str) -> Path:
    project = folder / "project"
    clone = ["git", "clone", "-q", str(ROOT), str(project)]
    subprocess.run(clone, check=True)
    use(project, sandbox, url)
    env = project / ".env"
    taken = ("TAP_HOMELE_AUTH_TOKEN", "TARGET_POSTGRES_DEFAULT_TARGET_SCHEMA")
    lines = env.read_text().splitlines()
    env.write_text("\n".join(line for line in lines if not line.startswith(taken)))
    file = project / "meltano.yml"
    both = company("acme") + company("beta")
    file.write_text(
        file.read_text().replace("- name: dev\n", f"- name: dev\n{both}", 1)
    )
    return project


def loaded(url: str, schema: str) -> int:
    """Count the customers of a company, and drop them."""
    with psycopg.connect(url) as connection:
        (count,) = connection.execute(
            f"SELECT count(*) FROM {schema}.customers"  # noqa: S608
        ).fetchone() or (0,)
        connection.execute(f"DROP SCHEMA {schema} CASCADE")
    return int(count)


def main() -> None:
    python = sys.argv[1] if len(sys.argv) > 1 else sys.executable
    folder = Path(tempfile.mkdtemp(prefix="orch"))
    sandbox = Sandbox.with_customers(CUSTOMERS).serve()
    with postgres(folder / "data") as url:
        project = copy_of_the_project(folder, sandbox, url)
        variables = clean_environment() | {
            "HOMELE_PROJECT": str(project),
            "AIRFLOW_HOME": str(folder / "airflow"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "docs/orchestrators"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "DAGSTER_HOME": str(folder),
        }

        def call(*command: Any) -> None:
            subprocess.run([*map(str, command)], env=variables, cwd=folder, check=True)

        for package in (AIRFLOW, DAGSTER):
            environment = folder / package.partition("=")[0]
            call("uv", "venv", "-q", "-p", python, environment)
            call("uv", "pip", "install", "-q", "-p", environment, package)
        airflow = folder / "apache-airflow/bin/airflow"
        variables["PATH"] = f"{airflow.parent}{os.pathsep}{variables['PATH']}"
        call(airflow, "db", "migrate")
        call(airflow, "pools", "set", "homele", 2, "Syncs at once")
        jobs = ROOT / "docs/orchestrators/dagster_jobs.py"
        dagster = folder / "dagster/bin/dagster"
        for name in ("acme", "beta"):
            call(airflow, "dags", "test", f"homele_{name}")
            by_airflow = loaded(url, name)
            shutil.rmtree(project / f".meltano-{name}")
            call(dagster, "job", "execute", "-f", jobs, "-j", f"homele_{name}")
            by_dagster = loaded(url, name)
            assert by_airflow == by_dagster == CUSTOMERS, name
            print(f"{name}: {CUSTOMERS} customers by Airflow, and by Dagster")
    sandbox.stop()
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
