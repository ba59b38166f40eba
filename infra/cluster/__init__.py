"""A real Kubernetes cluster of one node on this machine, for tests and for trying a stack without a cloud.

`python -m infra.cluster build` compiles Kubernetes once, `up` starts it with a registry, an S3 store, MLflow and ZenML,
`down` takes all of it away again.
"""
