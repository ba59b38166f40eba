"""The manifests, and a kubectl that is new enough to build them."""
