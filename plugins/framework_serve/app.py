"""The application: three routes, with limits of size and time, and refusals of one line."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from starlette.applications import Starlette  # pyright: ignore[reportMissingImports]
from starlette.middleware import Middleware  # pyright: ignore[reportMissingImports]
from starlette.middleware.trustedhost import TrustedHostMiddleware  # pyright: ignore[reportMissingImports]
from starlette.requests import ClientDisconnect, Request  # pyright: ignore[reportMissingImports]
from starlette.responses import Response  # pyright: ignore[reportMissingImports]
from starlette.routing import Route  # pyright: ignore[reportMissingImports]

from framework.errors import line_of
from framework.records.logs import LOGGER
from framework.trained.inputs import described
from framework_after.predict import classes_of, names_of
from framework_serve.batches import Batches
from framework_serve.bodies import IMAGES, JSON, NPY, RequestError, inputs_of

if TYPE_CHECKING:
    from framework.api import PyTree
    from framework.trained.model_function import Trained


class Limits(NamedTuple):
    """Limits of a server.

    Attributes:
      sizes: of batches, ascending; a request has at most as many examples as the largest.
      patience: seconds that a request waits for others to share a batch with.
      body: bytes of a request's body at most.
      seconds: until a body must have come, and then until there is an answer.
      waiting: requests that wait at once.
    """

    sizes: Sequence[int] = (32,)
    patience: float = 0.002
    body: int = 2**24
    seconds: float = 30.0
    waiting: int = 256


def application(model: Trained, limits: Limits, batches: Batches, hosts: Sequence[str], address: str) -> Starlette:
    """Make the application that serves a model.

    Args:
      batches: compute what the requests ask for.
      hosts: names by which the server may be asked for. A page in a browser that makes its own name point to this
        machine is refused by them.
      address: of the server, for the example that `GET /` shows.
    """
    preparing = ThreadPoolExecutor(1, "prepare")  # preprocessors of plugins need not stand several threads
    about = described_model(model, limits, address)

    async def predict(request: Request) -> Response:
        async with _within(limits.seconds, RequestError(408, f"the body did not come within {limits.seconds:g} s.")):
            content = await _body(request, limits.body)
        kind = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
        is_prepared = request.query_params.get("prepared", "false").lower() in ("true", "1")
        loop, rows = asyncio.get_running_loop(), limits.sizes[-1]
        async with _within(limits.seconds, RequestError(504, f"there is no answer after {limits.seconds:g} s.")):
            inputs = await loop.run_in_executor(preparing, inputs_of, model, content, kind, is_prepared, rows)
            outputs = await batches.answer(inputs)
        return _answer(outputs, classes_of(model), NPY in request.headers.get("accept", ""))

    async def health(_: Request) -> Response:
        return _json({"status": "ok", "waiting": len(batches), "answered": batches.answered})

    async def root(_: Request) -> Response:
        return _json(about, indent=2)

    @asynccontextmanager
    async def computing(_: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(batches.run())
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    routes = [
        Route("/predict", _refusing(predict), methods=["POST"]),
        Route("/health", _refusing(health), methods=["GET"]),
        Route("/", _refusing(root), methods=["GET"]),
    ]
    guards = [Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)]
    return Starlette(routes=routes, middleware=guards, lifespan=computing)


def described_model(model: Trained, limits: Limits, address: str) -> dict[str, Any]:
    """Return what `GET /` says: what the model is, what it takes and gives, and an example of a request."""
    take = [JSON, NPY, *(IMAGES if model.is_preprocessed else ())]
    record, classes = model.record(), classes_of(model)
    return {
        "model": model.config.get("model", model.config["task"])["name"],
        "run": record.name or record.id,
        "step": model.step,
        "inputs": described(model.inputs),
        "preprocess": model.facts.get("preprocess"),
        **({"classes": classes} if classes else {}),
        "content_types": take,
        "examples_in_a_request": limits.sizes[-1],
        "bytes_in_a_request": limits.body,
        "example": f"curl {address}/predict -H 'content-type: {NPY}' --data-binary @inputs.npy",
        "prepared": "POST /predict?prepared=true takes inputs that are preprocessed already",
    }


PASSED_OVER = 8
"""Times the limit that a body may have, to be read to its end before it is refused."""

Endpoint = Callable[[Request], Awaitable[Response]]


def _refusing(endpoint: Endpoint) -> Endpoint:
    """Answer a refusal with its status, and any other error with 500 and one line, also in the log."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except RequestError as refused:
            # What is left of the body would be read as the next request.
            headers = {"connection": "close"} if refused.status in (408, 413) else {}
            headers |= {"retry-after": "1"} if refused.status == 503 else {}
            return _json({"error": str(refused)}, refused.status, headers)
        except ClientDisconnect:
            return Response(status_code=400)  # which nobody reads
        except Exception as error:  # of the model or of a plugin; the server outlives it
            LOGGER.error(line_of(error))
            return _json({"error": "the model failed on this request; the server's log says more."}, 500)

    return answer


@asynccontextmanager
async def _within(seconds: float, refused: RequestError) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise refused from error


async def _body(request: Request, most: int) -> bytes:
    """Read a body chunk by chunk, and keep no more of it than the limit.

    Of a body beyond the limit the rest is read too, unless it is many times larger: a client that still sends when the
    connection closes gets a broken pipe in the place of the answer.
    """
    refused = RequestError(413, f"expected a body of {most:,} bytes or fewer.")
    promised = request.headers.get("content-length", "0")
    if promised.isdecimal() and int(promised) > PASSED_OVER * most:
        raise refused
    content, size = bytearray(), 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > PASSED_OVER * most:
            raise refused
        if size <= most:
            content += chunk
    if size > most:
        raise refused
    return bytes(content)


def _answer(outputs: PyTree, classes: Sequence[str], as_array: bool) -> Response:
    """Return outputs [n, ...] as JSON, with the names of the classes of a classifier, or as an .npy file."""
    outputs = jax.tree.map(_plain, outputs)
    if as_array:
        if not isinstance(outputs, np.ndarray):
            raise RequestError(406, f"the model has several outputs; ask for {JSON}.")
        file = io.BytesIO()
        np.lib.format.write_array(file, outputs, allow_pickle=False)
        return Response(file.getvalue(), media_type=NPY)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(outputs) if leaf.dtype.kind == "f"):
        raise RequestError(500, f"the outputs are not finite, which JSON cannot say; accept: {NPY} can.")
    names = names_of(outputs, classes)
    found = {"outputs": jax.tree.map(np.ndarray.tolist, outputs)}
    return _json(found if names is None else {**found, "predicted": names})


def _plain(leaf: np.ndarray) -> np.ndarray:
    """Widen floats that NumPy has no name for, such as bfloat16."""
    return leaf if leaf.dtype.kind in "biuf" or not jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.astype("f4")


def _json(
    content: Any, status: int = 200, headers: dict[str, str] | None = None, indent: int | None = None
) -> Response:
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, indent=indent)
    return Response(text + "\n", status, headers, media_type=JSON)
