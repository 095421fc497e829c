"""Routing over HTTP, for a serving stack to ask before it draws.

`POST /v1/route` decides for prompts; `GET /v1/routers` lists what there is to route by; `/healthz` says that
the process lives, `/readyz` that it can decide, `/metrics` what it decided, in Prometheus' format. The API
describes itself at `/openapi.json` and `/docs`.

While Neo4j is away, a router that asks its vector index answers 503; nothing is ever decided on less than the
graph says. After it comes back, the same process goes on.
"""

# No deferred annotations: FastAPI would look for those of functions within `create_app` at the top of
# the module, where its own names are not imported, since it belongs to an extra.
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from matchgraph.graphdb.errors import DatabaseFailed, GraphError, ServerUnreachable
from matchgraph.graphdb.prompt_models import MAX_PROMPT_CHARACTERS, Unit
from matchgraph.routing.encoders import check_enough
from matchgraph.routing.errors import BudgetTooSmall, NotEnoughScores, UnknownPrompt
from matchgraph.routing.policy import lambda_for_budget

if TYPE_CHECKING:
    from fastapi import FastAPI
    from fastapi.responses import JSONResponse

    from matchgraph.routing.router import Router

MAX_PROMPTS = 64
# Longer than any allowed request: every character may take six bytes, as an escape.
MAX_BODY_BYTES = 6 * MAX_PROMPTS * MAX_PROMPT_CHARACTERS + 4096
RETRY_AFTER_S = 5
LATENCIES_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
# As `prompt_models.check_prompt` demands: something visible, no control characters but tabs and breaks.
PROMPT_PATTERN = (
    r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*"
    r"[^\x00-\x20\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
    r"[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*$"
)
Prompt = Annotated[
    str,
    Field(min_length=1, max_length=MAX_PROMPT_CHARACTERS, pattern=PROMPT_PATTERN, examples=["a red apple"]),
]


class RouteRequest(BaseModel):
    """A prompt or several to decide for, and the budget or lambda."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"oneOf": [{"required": ["prompts"]}, {"required": ["prompt"]}]},
    )

    # Made by factories, so that the description gives them no default, which would not be accepted.
    prompts: Annotated[list[Prompt], Field(min_length=1, max_length=MAX_PROMPTS, default_factory=list)]
    prompt: Annotated[Prompt, Field(default_factory=str, description="In place of `prompts`.")]
    metric: Annotated[
        str | None, Field(description="Quality metric to route by; the service's first by default.")
    ] = None
    budget: Annotated[
        float | None,
        Field(
            gt=0,
            le=1e12,
            allow_inf_nan=False,
            description="Average cost of an image, in the unit of the candidates.",
        ),
    ] = None
    lam: Annotated[
        float | None,
        Field(
            alias="lambda",
            ge=0,
            le=1e12,
            allow_inf_nan=False,
            description="Quality that a unit of cost is worth, in place of a budget.",
        ),
    ] = None
    least: Annotated[
        float | None,
        Field(ge=-1e12, le=1e12, allow_inf_nan=False, description="Quality that counts as a success."),
    ] = None

    @model_validator(mode="before")
    @classmethod
    def one_of_both(cls, given: Any) -> Any:
        """Refuse a request with neither prompts nor a prompt, or with both."""
        if isinstance(given, dict) and ("prompt" in given) == ("prompts" in given):
            raise ValueError("give `prompts` or `prompt`, not both")
        return given


class OptionAnswer(BaseModel):
    """A candidate for a prompt."""

    variant: str
    quality: float | None
    std: float | None
    cost: float
    p_best: Annotated[
        float | None,
        Field(description="How likely it is the best candidate; null where too little is known."),
    ] = None
    p_success: Annotated[float | None, Field(description="How likely its quality is at least `least`.")] = (
        None
    )


class DecisionAnswer(BaseModel):
    """What a prompt was routed to."""

    variant: str
    model: str
    steps: int | None
    quality: float
    cost: float
    unit: Unit
    lam: Annotated[float, Field(serialization_alias="lambda")]
    basis: Annotated[
        Literal["prompt", "average"],
        Field(description="`average` where the prompt is unlike all known ones: averages decided."),
    ]
    similarity: float
    options: list[OptionAnswer]


class RouteAnswer(BaseModel):
    """Decisions in the order of the prompts."""

    metric: str
    decisions: list[DecisionAnswer]


class RouterAnswer(BaseModel):
    """A metric that can be routed by."""

    metric: str
    lam: Annotated[float, Field(serialization_alias="lambda")]
    candidates: list[str]


class Problem(BaseModel):
    """Why there is no answer, in one line."""

    detail: str


class Alive(BaseModel):
    """That the process answers."""

    status: Literal["ok"] = "ok"


@dataclass(frozen=True, eq=False)
class Served:
    """A router with what stands for the prompts to come.

    Attributes:
        router: decides.
        validation: estimates for the validation prompts, by which budgets become lambdas; float64, (n, m).
    """

    router: "Router"
    validation: np.ndarray

    def lambda_for(self, budget: float) -> float:
        """See `routing.policy.lambda_for_budget`.

        Raises:
            NotEnoughScores: the validation prompts are too few.
        """
        check_enough(self.validation)
        return lambda_for_budget(self.validation, self.router.cost, budget)


class Refused(Exception):
    """A request that is well-formed and cannot be met."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


def create_app(served: Mapping[str, Served], check_graph: Callable[[], None]) -> "FastAPI":
    """The service.

    Args:
        served: by metric, the default first; at least one.
        check_graph: returns if the graph answers, and raises a `GraphError` if not.

    Returns:
        An ASGI application.
    """
    from fastapi import Request, Response
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from fastapi_offline import FastAPIOffline
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest

    description = (__doc__ or "").split("\n", 1)[0]
    app = FastAPIOffline(title="matchgraph routing", version="1", description=description, redoc_url=None)
    registry = CollectorRegistry()
    requests = Counter("matchgraph_requests", "Requests", ("path", "status"), registry=registry)
    latency = Histogram(
        "matchgraph_route_seconds", "Time of a decision", buckets=LATENCIES_S, registry=registry
    )
    decisions = Counter(
        "matchgraph_decisions", "Prompts by candidate", ("metric", "variant"), registry=registry
    )
    cost = Counter("matchgraph_cost", "Cost of the candidates chosen", ("metric", "unit"), registry=registry)
    unfamiliar = Counter(
        "matchgraph_unfamiliar_prompts", "Prompts unlike all known ones", ("metric",), registry=registry
    )
    default = next(iter(served))
    problems = {
        status: {"model": Problem, "description": what}
        for status, what in (
            (400, "The body cannot be read"),
            (404, "There is no router for the metric"),
            (409, "The candidates cannot meet the request"),
            (413, "The request is too large"),
            (422, "The request is not valid"),
            (503, "The graph does not answer"),
        )
    }

    @app.post("/v1/route", responses={status: problems[status] for status in (400, 404, 409, 413, 422, 503)})
    def route(request: RouteRequest) -> RouteAnswer:
        """Decide which candidate to draw each prompt with."""
        metric = default if request.metric is None else request.metric
        if metric not in served:
            raise Refused(404, f"There is no router for {metric!r}. Available: {', '.join(served)}.")
        if request.budget is not None and request.lam is not None:
            raise Refused(409, "Give a budget or lambda, not both.")
        began = time.perf_counter()
        own = served[metric]
        lam = request.lam if request.budget is None else own.lambda_for(request.budget)
        made = own.router.decide(request.prompts or [request.prompt], lam, request.least)
        latency.observe(time.perf_counter() - began)
        for decision in made:
            decisions.labels(metric, decision.variant).inc()
            cost.labels(metric, decision.unit).inc(decision.cost)
            if decision.basis == "average":
                unfamiliar.labels(metric).inc()
        return RouteAnswer(
            metric=metric, decisions=[DecisionAnswer(**decision.to_dict()) for decision in made]
        )

    @app.get("/v1/routers")
    def routers() -> list[RouterAnswer]:
        """What there is to route by."""
        return [
            RouterAnswer(
                metric=metric, lam=own.router.lam, candidates=[each.id for each in own.router.variants]
            )
            for metric, own in served.items()
        ]

    @app.get("/healthz")
    def healthz() -> Alive:
        """Whether the process lives."""
        return Alive()

    @app.get("/readyz", responses={503: problems[503]})
    def readyz() -> Alive:
        """Whether it can decide: the graph answers."""
        check_graph()
        return Alive()

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    def metrics() -> Response:
        """What was decided so far, for Prometheus."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(RequestValidationError)
    def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return problem(422, f"The body is not JSON: {first['ctx']['error']}.")
        where = ".".join(str(part) for part in first["loc"][1:]) or "request"
        return problem(422, f"{where}: {first['msg'].removeprefix('Value error, ')}")

    @app.exception_handler(Refused)
    def refused(_: Request, error: Refused) -> JSONResponse:
        return problem(error.status, error.detail)

    @app.exception_handler(NotEnoughScores)
    @app.exception_handler(BudgetTooSmall)
    def too_small(_: Request, error: BudgetTooSmall | NotEnoughScores) -> JSONResponse:
        return problem(409, str(error))

    @app.exception_handler(UnknownPrompt)
    def not_embedded(_: Request, error: UnknownPrompt) -> JSONResponse:
        return problem(422, str(error))

    @app.exception_handler(GraphError)
    def no_graph(_: Request, error: GraphError) -> JSONResponse:
        if not isinstance(error, (ServerUnreachable, DatabaseFailed)):
            return problem(422, str(error))
        # The address within is the operator's business.
        answer = problem(503, "The graph does not answer: try again later.")
        answer.headers["Retry-After"] = str(RETRY_AFTER_S)
        return answer

    @app.middleware("http")
    async def counted(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        known = request.scope.get("route")
        requests.labels(getattr(known, "path", "other"), str(response.status_code)).inc()
        return response

    app.add_middleware(BodyLimit)
    return app


def problem(status: int, detail: str) -> "JSONResponse":
    """An error's answer; what cannot be sent (half of a surrogate pair, in a field's name) is replaced."""
    from fastapi.responses import JSONResponse

    return JSONResponse({"detail": detail.encode("utf-8", "replace").decode()}, status_code=status)


class BodyLimit:
    """Refuses bodies over `MAX_BODY_BYTES`, as soon as that much has come, whatever their header says.

    Args:
        app: what gets the others.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Serve one request, as ASGI says."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > MAX_BODY_BYTES:
                await problem(413, f"The request is over {MAX_BODY_BYTES} bytes.")(scope, receive, send)
                return
            if message["type"] == "http.disconnect":
                return
            if not message.get("more_body"):
                break
        whole = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replayed() -> Any:
            return whole.pop() if whole else await receive()

        await self._app(scope, replayed, send)
