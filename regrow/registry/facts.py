"""What can be found out about a version without being told: statement, environment, code."""

from functools import lru_cache
from importlib.metadata import distributions

from regrow.checkpoint import Checkpoint


def known_facts(checkpoint: Checkpoint) -> dict[str, str]:
    """Return tags with the checkpoint's statement, this process's package lock, and the commit of the code."""
    from regrow.lineage import about
    from regrow.lineage.environment import builder

    facts = {}
    if statement := about(checkpoint.folder, checkpoint.digest):
        facts["regrow.attestation"] = statement.id
    for one in builder().builder_dependencies:
        if one.name == "packages" and one.sha256:
            facts["regrow.environment"] = one.sha256
        if one.name == "code" and (commit := one.digest.get("gitCommit")):
            facts["regrow.commit"] = commit + ("-dirty" if (one.annotations or {}).get("dirty") else "")
    return facts


@lru_cache(maxsize=1)
def packages() -> dict[str, str]:
    """Return the version of every installed package, by its name as `regrow.lineage.lock_digest` spells it."""
    return {
        name.lower().replace("_", "-"): one.version
        for one in sorted(distributions(), key=lambda one: str(one.metadata["Name"]).lower())
        if (name := one.metadata["Name"])
    }
