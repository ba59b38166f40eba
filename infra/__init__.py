"""What the pipeline runs on: the local stack, and the container image."""
