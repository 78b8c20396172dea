"""Airflow 3: a DAG for each company, each hour. ``docs/operating.md`` has the steps."""

import os
from datetime import datetime, timedelta, timezone

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

PROJECT = os.environ.get("HOMELE_PROJECT", "/home/me/tap-homele")
COMPANIES = ("acme", "beta")  # environments in meltano.yml

for company in COMPANIES:
    with DAG(
        dag_id=f"homele_{company}",
        schedule="@hourly",
        start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
        catchup=False,
        max_active_runs=1,
    ) as dag:
        BashOperator(
            task_id="sync",
            bash_command=f"uvx meltano --environment={company} run tap-homele "
            "target-postgres",
            cwd=PROJECT,
            # Runs that share this folder would take each other's catalog and state.
            env={"MELTANO_SYS_DIR_ROOT": f"{PROJECT}/.meltano-{company}"},
            append_env=True,
            pool="homele",
            retries=2,
            retry_delay=timedelta(minutes=10),
        )
    globals()[dag.dag_id] = dag
