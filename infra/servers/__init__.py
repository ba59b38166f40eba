"""Real servers on one machine, with authentication on: S3 (SeaweedFS), MLflow on PostgreSQL, ZenML on MariaDB.

`python -m infra.servers up` starts them, `env` prints what a client needs, `down` stops them.
"""
