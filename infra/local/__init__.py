"""The stack of one machine: local orchestrator and artifact store, MLflow in a SQLite file."""
