"""The audit of what somebody names: find the folder, audit it, and ask the registries about it.

`regrow.lineage.audit_folder` looks at a folder and the statements that it carries; here are the kinds of targets
(`targets`), and the checks against what lies elsewhere: the MLflow version, its run and the promotion record
(`registry`), and ZenML (`zenml`, whose facts are handed in: regrow does not import it).
"""

from regrow.audit.targets import Target, resolve

__all__ = ["Target", "resolve"]
