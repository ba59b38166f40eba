"""The pipeline on Kubeflow Pipelines: a ZenML orchestrator flavor, its compiled form, and a local run of that."""
