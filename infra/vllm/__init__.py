"""vLLM on a CPU, in an environment of its own (`make test-vllm` makes it): its server for tests and benchmarks."""
