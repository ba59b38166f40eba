"""Settings laid over settings."""

from typing import Any

# What tells the elements of Kubernetes' lists apart.
_KEYS = {"volumes": "name", "volume_mounts": "mountPath", "env": "name"}


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return `below` with `above` laid over it.

    Mappings are merged key by key. Volumes, mounts and variables of pods are merged by name, each as a whole; every
    other list and value is replaced.
    """
    merged = dict(below)
    for key, value in above.items():
        before = merged.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            merged[key] = merge(before, value)
        elif key in _KEYS and isinstance(before, list) and isinstance(value, list):
            name = _KEYS[key]
            named = {str(one.get(name)): one for one in (*before, *value)}
            merged[key] = list(named.values())
        else:
            merged[key] = value
    return merged
