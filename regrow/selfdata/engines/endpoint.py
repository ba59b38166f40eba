"""Generation by a server that speaks the OpenAI completions API.

Prompts are rendered and tokenized here, with the checkpoint's own tokenizer, and sent as token ids: every
engine continues the very same tokens. Many requests wait at one time; a busy server (429, 503) or one
that is gone is asked again after growing pauses, and a server that stays away ends the stage with an error.
Shards that were finished before stay.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any

from regrow.errors import InputError, RegrowError
from regrow.selfdata.engines.base import Engine, Generation, Request, Sampling
from regrow.selfdata.engines.spec import EndpointSpec

if TYPE_CHECKING:
    import requests

    from regrow.checkpoint import Checkpoint

_BUSY = (408, 425, 429, 500, 502, 503, 504)


class EndpointEngine(Engine):
    """Generation by an OpenAI-compatible server.

    Args:
        checkpoint: the model that the server has; its tokenizer and end tokens are used here.
        spec: where the server is, and how it is asked.

    Raises:
        InputError: the server does not list the model, or refuses the key.
        RegrowError: there is no answer.
    """

    name = "endpoint"

    def __init__(self, checkpoint: "Checkpoint", spec: EndpointSpec) -> None:
        super().__init__(checkpoint)
        self._spec = spec
        self.in_flight = spec.in_flight
        self._session = _session(spec)
        listed = self._ask("GET", "/models").get("data") or []
        served = {str(one.get("id")): one for one in listed}
        if spec.model not in served:
            raise InputError(
                f"endpoint.model: {spec.url} does not serve {spec.model!r}; it lists {', '.join(served) or 'nothing'}"
            )
        # vLLM says how long a sequence may be; others find out when asked.
        self._context = min(self._context, served[spec.model].get("max_model_len") or self._context)
        # One pool for all calls, first come first served: it stays full while a call waits for its last answers.
        self._pool = ThreadPoolExecutor(max_workers=spec.in_flight, thread_name_prefix="endpoint")
        self._failure: RegrowError | None = None

    def close(self) -> None:
        """Ask no more: requests that wait fail when their turn comes, which is at once.

        They are not cancelled: `as_completed`, in the thread that waits for them, would not hear of it.
        """
        self._failure = self._failure or RegrowError("stopped")

    def _continue(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[tuple[Request, Generation]]:
        asked = {self._pool.submit(self._complete, request, sampling): request for request in requests}
        try:
            for future in as_completed(asked):
                yield asked[future], future.result()
        finally:
            for future in asked:
                future.cancel()

    def _complete(self, request: Request, sampling: Sampling) -> Generation:
        # What failed for good ends the stage: the requests that still wait need not find out for themselves.
        if self._failure is not None:
            raise self._failure
        try:
            return self._completion(request, sampling)
        except RegrowError as error:
            self._failure = self._failure or error
            raise

    def _completion(self, request: Request, sampling: Sampling) -> Generation:
        body: dict[str, Any] = {
            "model": self._spec.model,
            "prompt": request.prompt,
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }
        if request.seed >= 0:
            body["seed"] = request.seed
        answer = self._ask("POST", "/completions", body)
        try:
            choice, usage = answer["choices"][0], answer["usage"]
            text, reason = str(choice["text"]), choice["finish_reason"]
            count, read = int(usage["completion_tokens"]), int(usage["prompt_tokens"])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise RegrowError(
                f"{self._spec.url}: the answer is not that of an OpenAI-compatible completions server ({error!r})"
            ) from None
        if read != len(request.prompt):
            raise InputError(
                f"endpoint.model: the server read {read} tokens of a prompt of {len(request.prompt)}; it serves "
                "another model, or adds tokens of its own"
            )
        return Generation(text, count, finished=reason == "stop", prompt_tokens=read, seed=request.seed)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        import requests

        url = self._spec.url + path
        try:
            response = self._session.request(method, url, json=body, timeout=self._spec.timeout)
        except requests.RequestException as error:
            raise RegrowError(
                f"{url}: no answer after {self._spec.retries + 1} tries ({_reason(error)}); start the server and "
                "run the same command again, it goes on after the last finished shard"
            ) from error
        if response.status_code in (401, 403):
            raise InputError(
                f"endpoint.api_key_env: {url} refuses the key ({response.status_code}); name the variable that holds "
                "a valid one"
            )
        if response.status_code in _BUSY:
            raise RegrowError(
                f"{url}: still answers {response.status_code} after {self._spec.retries + 1} tries; run the same "
                "command again when the server has room, or lower endpoint.in_flight"
            )
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not response.ok:
            raise InputError(
                f"{url}: refuses the request ({response.status_code}: {_message(answer, response)})"
            )
        if not isinstance(answer, dict):
            raise RegrowError(f"{url}: the answer is not JSON; is this an OpenAI-compatible server?")
        return answer


def _session(spec: EndpointSpec) -> "requests.Session":
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    again = Retry(
        total=spec.retries,
        backoff_factor=0.5,
        backoff_max=30,
        backoff_jitter=0.5,
        status_forcelist=_BUSY,
        allowed_methods=None,  # a completion changes nothing: it may be asked for twice
        raise_on_status=False,
    )
    session = requests.Session()
    adapter = HTTPAdapter(max_retries=again, pool_connections=1, pool_maxsize=spec.in_flight)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    if spec.api_key_env:
        if not (key := os.environ.get(spec.api_key_env)):
            raise InputError(f"endpoint.api_key_env: the variable {spec.api_key_env} is not set")
        session.headers["Authorization"] = f"Bearer {key}"
    return session


def _reason(error: Exception) -> str:
    """Return what is at the bottom of nested connection errors."""
    inner: Any = error
    while nested := getattr(inner, "reason", None) or next(
        (one for one in getattr(inner, "args", ()) if isinstance(one, Exception)), None
    ):
        inner = nested
    return str(inner).rpartition(": ")[2] or type(inner).__name__


def _message(answer: Any, response: "requests.Response") -> str:
    said = answer.get("error", answer) if isinstance(answer, dict) else response.text
    said = said.get("message", said) if isinstance(said, dict) else said
    return " ".join(str(said).split())[:300]
