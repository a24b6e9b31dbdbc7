"""The same two endpoints in each framework, written as its documentation does it, bodies by msgspec everywhere.

Runs in the environment of requirements.txt beside it, where this file's folder is on the path.
"""

# mypy: ignore-errors
# ruff: noqa: D103
from __future__ import annotations

import falcon.asgi
import msgspec
from blacksheep import Application, Content
from blacksheep import Request as BlackSheepRequest
from blacksheep import Response as BlackSheepResponse
from litestar import Litestar, get, post
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route


class Body(msgspec.Struct):
    session_id: str
    filters: dict[str, object] = {}
    user_id: str | None = None


class Answer(msgspec.Struct):
    user: str
    segments: list[str]


SEGMENTS = ["suv", "electric"]
JSON = "application/json"
decode = msgspec.json.Decoder(Body).decode
encode = msgspec.json.Encoder().encode


async def bare(scope, receive, send):
    """ASGI by hand, without routing or any check: what a framework's cost is counted from."""
    if scope["type"] != "http":
        return
    user = scope["path"].split("/")[3] if scope["method"] == "GET" else decode((await receive())["body"]).user_id
    body = encode(Answer(user, SEGMENTS))
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def starlette_segments(request):
    return Response(encode(Answer(request.path_params["user"], SEGMENTS)), media_type=JSON)


async def starlette_featured(request):
    return Response(encode(Answer(decode(await request.body()).user_id, SEGMENTS)), media_type=JSON)


starlette = Starlette(
    routes=[
        Route("/v1/users/{user}/segments", starlette_segments),
        Route("/v1/featured", starlette_featured, methods=["POST"]),
    ]
)


class FalconSegments:
    async def on_get(self, request, response, user):
        response.content_type, response.data = JSON, encode(Answer(user, SEGMENTS))


class FalconFeatured:
    async def on_post(self, request, response):
        body = decode(await request.stream.read())
        response.content_type, response.data = JSON, encode(Answer(body.user_id, SEGMENTS))


falcon_app = falcon.asgi.App()
falcon_app.add_route("/v1/users/{user}/segments", FalconSegments())
falcon_app.add_route("/v1/featured", FalconFeatured())


@get("/v1/users/{user:str}/segments")
async def litestar_segments(user: str) -> Answer:
    return Answer(user, SEGMENTS)


@post("/v1/featured", status_code=200)
async def litestar_featured(data: Body) -> Answer:
    return Answer(data.user_id, SEGMENTS)


litestar = Litestar([litestar_segments, litestar_featured], openapi_config=None)

blacksheep = Application()


@blacksheep.router.get("/v1/users/{user}/segments")
async def blacksheep_segments(user: str):
    return BlackSheepResponse(200, content=Content(JSON.encode(), encode(Answer(user, SEGMENTS))))


@blacksheep.router.post("/v1/featured")
async def blacksheep_featured(request: BlackSheepRequest):
    body = decode(await request.read())
    return BlackSheepResponse(200, content=Content(JSON.encode(), encode(Answer(body.user_id, SEGMENTS))))
