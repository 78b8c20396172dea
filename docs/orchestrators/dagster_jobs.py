"""Dagster: a job for each company, each hour. ``docs/operating.md`` has the steps."""

import os
import subprocess

import dagster

PROJECT = os.environ.get("HOMELE_PROJECT", "/home/me/tap-homele")
COMPANIES = ("acme", "beta")  # environments in meltano.yml


def job_of(company: str) -> dagster.JobDefinition:
    """Make the job of a company; it fails if the command does."""

    @dagster.op(
        name=f"sync_{company}",
        pool="homele",
        retry_policy=dagster.RetryPolicy(max_retries=2, delay=600),
    )
    def sync() -> None:
        command = f"uvx meltano --environment={company} run tap-homele target-postgres"
        # Runs that share this folder would take each other's catalog and state.
        own = {"MELTANO_SYS_DIR_ROOT": f"{PROJECT}/.meltano-{company}"}
        subprocess.run(command.split(), cwd=PROJECT, env=os.environ | own, check=True)

    @dagster.job(name=f"homele_{company}")
    def run() -> None:
        sync()

    return run


JOBS = [job_of(company) for company in COMPANIES]
HOURLY = [
    dagster.ScheduleDefinition(job=job, cron_schedule="0 * * * *") for job in JOBS
]
DEFINITIONS = dagster.Definitions(jobs=JOBS, schedules=HOURLY)
