"""static/openapi.json: it has every route, and the program's responses match it."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import httpx
import jsonschema_rs
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import CHECKS, load_all_checks
from tornado.routing import PathMatches

from handlers import ROUTES
from tests.client import NO_TLS, Client
from tests.fakes.ollama import Answer, Close, Gate, Head, Lines, ScriptedOllama, Step, Whole, failure, last_line, line
from tests.fakes.proxy import CuttingProxy
from tests.program import ROOT, Program
from web.base import BaseHandler

DOCUMENT: dict[str, Any] = json.loads((ROOT / "static" / "openapi.json").read_text())
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
METHODS = ("get", "head", "post", "put", "patch", "delete", "options")

OPERATIONS = {
    operation["operationId"]: (path, method)
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
    if method in METHODS
}
"""Path and method of each operation by its id."""

ENDLESS = {"watchStatus"}
"""Streams without end."""

load_all_checks()
CONFORMS: list[Any] = CHECKS.get_by_names(
    [
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
    ]
)
SERVES: list[Any] = CHECKS.get_by_names(["not_a_server_error", "positive_data_acceptance"])
"""Requests that the document allows are not rejected."""


def operation(id: str) -> dict[str, Any]:
    path, method = OPERATIONS[id]
    return dict(DOCUMENT["paths"][path][method])


def check_response(id: str, response: httpx.Response) -> None:
    """Status, content type, headers and body match the document."""
    path, method = OPERATIONS[id]
    names = re.findall(r"{(\w+)}", path)
    case = SCHEMA[path][method.upper()].Case(path_parameters=dict.fromkeys(names, "given"))
    case.validate_response(response, checks=CONFORMS)


def validator(schema: Any) -> jsonschema_rs.Validator:
    """Return a validator for a schema of the document."""
    draft = "https://json-schema.org/draft/2020-12/schema"
    return jsonschema_rs.validator_for({"$schema": draft, "allOf": [schema], "components": DOCUMENT["components"]})


def events(stream: str) -> list[dict[str, str]]:
    """Parse a complete stream into the fields of its events, without comments."""
    assert stream.endswith("\n\n")
    blocks = [block.split("\n") for block in stream.removesuffix("\n\n").split("\n\n")]
    return [dict(line.split(": ", 1) for line in block if not line.startswith(":")) for block in blocks]


# The document.


def test_the_document_is_valid() -> None:
    SCHEMA.validate()


def implemented(target: Any) -> set[str]:
    return {method for method in METHODS if getattr(target, method) is not getattr(BaseHandler, method)}


def routes() -> dict[re.Pattern[str], set[str]]:
    """Return the program's routes in order, with their methods."""
    return {rule.matcher.regex: implemented(rule.target) for rule in ROUTES if isinstance(rule.matcher, PathMatches)}


def test_the_document_has_exactly_the_routes_and_methods_of_the_program() -> None:
    """Match the document's paths with the program's routes as Tornado does."""
    documented: dict[Any, set[str]] = {}
    for path, method in OPERATIONS.values():
        address = path.replace("{", "").replace("}", "")
        found = [pattern for pattern in routes() if pattern.match(address)]
        documented.setdefault(found[0] if found else path, set()).add(method)
    assert len(routes()) == len(ROUTES)
    assert documented == routes()


def examples(value: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the location, schema and value of every example of the document."""
    if isinstance(value, list):
        for number, one in enumerate(value):
            yield from examples(one, f"{where}/{number}")
    if isinstance(value, dict):
        if "schema" in value:
            if "example" in value:
                yield where, value["schema"], value["example"]
            for name, example in value.get("examples", {}).items():
                if where.endswith("event-stream"):
                    for number, event in enumerate(events(example["value"])):
                        yield f"{where}/{name}/{number}", value["schema"], event
                else:
                    yield f"{where}/{name}", value["schema"], example["value"]
        for name, one in value.items():
            if name not in ("example", "examples"):
                yield from examples(one, f"{where}/{name}")


@pytest.mark.parametrize(("schema", "example"), [pytest.param(*rest, id=where) for where, *rest in examples(DOCUMENT)])
def test_an_example_matches_its_schema(schema: Any, example: Any) -> None:
    validator(schema).validate(example)


def test_every_component_is_used() -> None:
    text = json.dumps(DOCUMENT)
    for kind, components in DOCUMENT["components"].items():
        for name in components:
            used = f'"{name}": []' if kind == "securitySchemes" else f'"#/components/{kind}/{name}"'
            assert used in text, name


# Generated requests.


class Brief(Step):
    """Responds with two lines in the format of the requested endpoint."""

    async def play(self, response: Answer) -> None:
        await Head().play(response)
        if response.request.path == "/api/chat":
            await Lines(line("Hello"), last_line()).play(response)
        else:
            await Lines(b'{"model":"fake","response":"Hello","done":false}', b'{"model":"fake","done":true}').play(
                response
            )


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


def check_events(stream: str) -> None:
    """The data of each event matches its schema."""
    for event in events(stream):
        name = "Error" if event.get("event") == "error" else "ChatLine"
        validator({"$ref": f"#/components/schemas/{name}"}).validate(json.loads(event["data"]))


@pytest.mark.parametrize("examples", [5, pytest.param(50, marks=pytest.mark.extended)])
@pytest.mark.parametrize("id", sorted(OPERATIONS.keys() - ENDLESS))
def test_generated_requests_get_documented_responses(
    chatterd: Program, ollama: ScriptedOllama, session: requests.Session, id: str, examples: int
) -> None:
    """Generate requests from the document's schemas, the same ones in each run (schemathesis)."""
    ollama.default = (Brief(),)
    path, method = OPERATIONS[id]

    @given(case=SCHEMA[path][method.upper()].as_strategy())
    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def check(case: schemathesis.Case[Any]) -> None:
        response = case.call(base_url=chatterd.url, session=session, timeout=20)
        # A schema cannot exclude NUL from nested strings (406), nor the Last-Event-ID of an unknown reply (409).
        possible = response.status_code not in (406, 409)
        case.validate_response(response, checks=CONFORMS + SERVES if possible else CONFORMS)
        if "event-stream" in response.headers.get("content-type", [""])[0]:
            check_events(response.content.decode())

    check()


@pytest.mark.parametrize("path", sorted({path for id, (path, _) in OPERATIONS.items()}))
def test_any_other_method_of_a_path_is_405(client: Client, path: str) -> None:
    documented = {method.upper() for one, method in OPERATIONS.values() if one == path}
    for method in {*METHODS, "trace"} - {method.lower() for method in documented}:
        response = client.http.request(method.upper(), path.replace("{", "").replace("}", ""))
        assert (response.status_code, {*response.headers["Allow"].split(", ")}) == (405, documented)


# Each documented response.


JSON = {"Content-Type": "application/json"}
UNKNOWN = f"/llmchat/{UUID(int=0)}"


def conversation(client: Client, method: str = "GET", **query: Any) -> httpx.Response:
    return client.http.request(method, "/llmchat", params={"appID": client.appid} | query)


def revalidate(client: Client, path: str) -> httpx.Response:
    """Send a request with the entity tag of the response."""
    tag = client.http.get(path).headers["ETag"]
    return client.http.get(path, headers={"If-None-Match": tag})


def post(client: Client, path: str, content: bytes = b"{}", **headers: str) -> httpx.Response:
    return client.http.post(path, content=content, headers=JSON | headers)


def resume_at_end(client: Client) -> httpx.Response:
    """Resume a finished reply after its last line."""
    path = client.begin("hi")
    last = client.view(path)[-1].id
    return client.http.get(path, headers={"Last-Event-ID": str(last)})


def repeat_at_end(client: Client, ollama: ScriptedOllama) -> httpx.Response:
    """Repeat a prompt whose reply was shown to its end."""
    last = client.ask("hi")[-1].id
    return client.http.post("/llmchat", json=client.body("hi"), headers={"Last-Event-ID": str(last)})


def finished_reply(client: Client) -> str:
    """Return the path of a finished reply."""
    path = client.begin("hi")
    client.view(path)
    return path


def running_reply(client: Client, ollama: ScriptedOllama) -> str:
    """Return the path of a reply that is generated until it is stopped."""
    ollama.script(Head(), Lines(line("a")), Gate())
    return client.begin("hi")


def conflict(client: Client, ollama: ScriptedOllama) -> httpx.Response:
    path = running_reply(client, ollama)
    response = client.http.post("/llmchat", json=client.body("second"), headers={"Prefer": "respond-async"})
    client.http.delete(path)
    client.view(path)
    return response


def without_ollama(client: Client, ollama: ScriptedOllama, method: str, path: str) -> httpx.Response:
    ollama.stop_listening()
    ollama.cut_connections()
    response = client.http.request(method, path, content=b"{}", headers=JSON)
    ollama.listen_again()
    return response


def window_of_an_unknown_model(client: Client, ollama: ScriptedOllama) -> httpx.Response:
    ollama.model.known = ["other"]
    return client.http.get("/window?model=fake")


def with_a_page_for_ollama(client: Client, ollama: ScriptedOllama, method: str, path: str) -> httpx.Response:
    ollama.probed = Whole(200, b"<title>Sign in</title>", "text/html")
    try:
        return client.http.request(method, path)
    finally:
        ollama.probed = None


def put_summary(client: Client, content: bytes = b"{}", **headers: str) -> httpx.Response:
    return client.http.put(f"/summary?appID={client.appid}&until=1", content=content, headers=JSON | headers)


def rejected_by_ollama(client: Client, ollama: ScriptedOllama, step: Step) -> httpx.Response:
    ollama.script(step)
    return post(client, "/llmprompt")


Situation = Callable[[Client, ScriptedOllama], httpx.Response]

SITUATIONS: dict[tuple[str, str], Situation] = {
    ("beginReply", "200"): lambda c, o: c.http.post("/llmchat", json=c.body("hi")),
    ("beginReply", "202"): lambda c, o: c.http.post("/llmchat", json=c.body(), headers={"Prefer": "respond-async"}),
    ("beginReply", "204"): repeat_at_end,
    ("beginReply", "400"): lambda c, o: post(c, "/llmchat", b"{"),
    ("beginReply", "406"): lambda c, o: c.http.post("/llmchat", json=c.body("\0")),
    ("beginReply", "409"): conflict,
    ("beginReply", "415"): lambda c, o: c.http.post("/llmchat", content=b"{}"),
    ("beginReply", "422"): lambda c, o: post(c, "/llmchat"),
    ("prepareConversation", "200"): lambda c, o: c.http.post("/llmprep", json=c.body("hi")),
    ("prepareConversation", "400"): lambda c, o: post(c, "/llmprep", b"{"),
    ("prepareConversation", "406"): lambda c, o: c.http.post("/llmprep", json=c.body("\0")),
    ("prepareConversation", "415"): lambda c, o: c.http.post("/llmprep", content=b"{}"),
    ("prepareConversation", "422"): lambda c, o: post(c, "/llmprep"),
    ("getChatts", "200"): lambda c, o: c.http.get("/getchatts"),
    ("getChatts", "304"): lambda c, o: revalidate(c, "/getchatts"),
    ("putSummary", "400"): lambda c, o: put_summary(c, b"{"),
    ("putSummary", "404"): lambda c, o: put_summary(c, b'{"text":"hi"}'),
    ("putSummary", "406"): lambda c, o: put_summary(c, b'{"text":"\\u0000"}'),
    ("putSummary", "415"): lambda c, o: c.http.put("/summary?appID=a&until=1", content=b"{}"),
    ("putSummary", "422"): lambda c, o: put_summary(c),
    ("postChatt", "200"): lambda c, o: post(c, "/postchatt", b'{"name":"alice","message":"hi"}'),
    ("postChatt", "400"): lambda c, o: post(c, "/postchatt", b"{"),
    ("postChatt", "406"): lambda c, o: post(c, "/postchatt", b'{"name":"alice","message":"\\u0000"}'),
    ("postChatt", "415"): lambda c, o: c.http.post("/postchatt", content=b"{}"),
    ("postChatt", "422"): lambda c, o: post(c, "/postchatt"),
    ("getConversation", "200"): lambda c, o: conversation(c, limit=len(c.ask("hi"))),
    ("getConversation", "304"): lambda c, o: revalidate(c, f"/llmchat?appID={c.appid}"),
    ("getConversation", "400"): lambda c, o: conversation(c, limit="x"),
    ("getConversation", "406"): lambda c, o: conversation(c, appID="\0"),
    ("getConversation", "422"): lambda c, o: conversation(c, appID=""),
    ("deleteConversation", "204"): lambda c, o: conversation(c, "DELETE"),
    ("deleteConversation", "400"): lambda c, o: conversation(c, "DELETE", **{"from": "x"}),
    ("deleteConversation", "406"): lambda c, o: conversation(c, "DELETE", appID="\0"),
    ("deleteConversation", "422"): lambda c, o: conversation(c, "DELETE", appID=""),
    ("getReply", "200"): lambda c, o: c.http.get(finished_reply(c)),
    ("getReply", "204"): lambda c, o: resume_at_end(c),
    ("getReply", "400"): lambda c, o: c.http.get(finished_reply(c), headers={"Last-Event-ID": "x"}),
    ("getReply", "404"): lambda c, o: c.http.get(UNKNOWN),
    ("stopReply", "202"): lambda c, o: c.http.delete(running_reply(c, o)),
    ("stopReply", "204"): lambda c, o: c.http.delete(finished_reply(c)),
    ("stopReply", "400"): lambda c, o: c.http.delete("/llmchat/%ff"),
    ("stopReply", "404"): lambda c, o: c.http.delete(UNKNOWN),
    ("generate", "200"): lambda c, o: post(c, "/llmprompt", b'{"model":"fake","prompt":"hi"}'),
    ("generate", "400"): lambda c, o: rejected_by_ollama(c, o, failure(400, "bad")),
    ("generate", "default"): lambda c, o: rejected_by_ollama(c, o, failure(404, "model 'x' not found")),
    ("generate", "415"): lambda c, o: c.http.post("/llmprompt", content=b"{}"),
    ("generate", "502"): lambda c, o: rejected_by_ollama(c, o, Close()),
    ("generate", "503"): lambda c, o: without_ollama(c, o, "POST", "/llmprompt"),
    ("listModels", "200"): lambda c, o: c.http.get("/models"),
    ("listModels", "304"): lambda c, o: revalidate(c, "/models"),
    ("listModels", "502"): lambda c, o: with_a_page_for_ollama(c, o, "GET", "/models"),
    ("listModels", "503"): lambda c, o: without_ollama(c, o, "GET", "/models"),
    ("getWindow", "200"): lambda c, o: c.http.get("/window?model=fake"),
    ("getWindow", "304"): lambda c, o: revalidate(c, "/window?model=fake"),
    ("getWindow", "400"): lambda c, o: c.http.get("/window?model=%ff"),
    ("getWindow", "404"): lambda c, o: window_of_an_unknown_model(c, o),
    ("getWindow", "422"): lambda c, o: c.http.get("/window"),
    ("getWindow", "503"): lambda c, o: without_ollama(c, o, "GET", "/window?model=fake"),
    ("getHealth", "200"): lambda c, o: c.http.get("/healthz"),
    ("getHealth", "304"): lambda c, o: revalidate(c, "/healthz"),
    ("getReadiness", "200"): lambda c, o: c.http.get("/readyz"),
    ("getReadiness", "304"): lambda c, o: revalidate(c, "/readyz"),
    ("getMetrics", "200"): lambda c, o: c.http.get("/metrics"),
    ("signIn", "400"): lambda c, o: post(c, "/sign-in", b"{"),
    ("signIn", "404"): lambda c, o: post(c, "/sign-in", b'{"token":"x"}'),
    ("signIn", "415"): lambda c, o: c.http.post("/sign-in", content=b"{}"),
    ("signIn", "422"): lambda c, o: post(c, "/sign-in"),
    ("signOut", "204"): lambda c, o: c.http.delete("/sign-in"),
    ("whoAmI", "200"): lambda c, o: c.http.get("/sign-in/me"),
    ("whoAmI", "304"): lambda c, o: revalidate(c, "/sign-in/me"),
    ("getFile", "400"): lambda c, o: c.http.get("/static/%ff"),
    ("getFile", "404"): lambda c, o: c.http.get("/static/nope.js"),
    ("headFile", "400"): lambda c, o: c.http.head("/static/%ff"),
    ("headFile", "404"): lambda c, o: c.http.head("/static/nope.js"),
}

HEADS = {
    "headModels": ("/models", "listModels", ("200", "304", "502", "503")),
    "headHealth": ("/healthz", "getHealth", ("200", "304")),
    "headReadiness": ("/readyz", "getReadiness", ("200", "304")),
    "headMetrics": ("/metrics", "getMetrics", ("200",)),
    "headWhoAmI": ("/sign-in/me", "whoAmI", ("200", "304")),
}
"""Operations that monitors use: path, the operation with a body, and statuses."""

for id, (path, _, statuses) in HEADS.items():
    SITUATIONS[id, "200"] = lambda c, o, at=path: c.http.head(at)  # type: ignore[misc]
    if "304" in statuses:
        SITUATIONS[id, "304"] = lambda c, o, at=path: c.http.head(  # type: ignore[misc]
            at, headers={"If-None-Match": c.http.head(at).headers["ETag"]}
        )
    if "502" in statuses:
        SITUATIONS[id, "502"] = lambda c, o, at=path: with_a_page_for_ollama(c, o, "HEAD", at)  # type: ignore[misc]
    if "503" in statuses:
        SITUATIONS[id, "503"] = lambda c, o, at=path: without_ollama(c, o, "HEAD", at)  # type: ignore[misc]


@pytest.mark.parametrize("id", HEADS)
def test_head_has_the_status_and_the_headers_of_get_without_its_body(client: Client, id: str) -> None:
    path, get, _ = HEADS[id]
    assert operation(id)["responses"].keys() == operation(get)["responses"].keys()
    headed, got = client.http.head(path), client.http.get(path)
    assert (headed.status_code, headed.content) == (got.status_code, b"") == (200, b"")
    varying = {"x-request-id", "date", "content-length"}
    assert {name: headed.headers[name] for name in headed.headers if name not in varying} == {
        name: got.headers[name] for name in got.headers if name not in varying
    }
    assert int(headed.headers["Content-Length"]) > 0


FOREIGN = {"Origin": "https://elsewhere.example"}
for id, call in {
    "beginReply": lambda c: post(c, "/llmchat", b"{}", **FOREIGN),
    "prepareConversation": lambda c: post(c, "/llmprep", b"{}", **FOREIGN),
    "putSummary": lambda c: put_summary(c, b"{}", **FOREIGN),
    "postChatt": lambda c: post(c, "/postchatt", b"{}", **FOREIGN),
    "generate": lambda c: post(c, "/llmprompt", b"{}", **FOREIGN),
    "signIn": lambda c: post(c, "/sign-in", b"{}", **FOREIGN),
    "deleteConversation": lambda c: c.http.delete(f"/llmchat?appID={c.appid}", headers=FOREIGN),
    "stopReply": lambda c: c.http.delete(UNKNOWN, headers=FOREIGN),
    "signOut": lambda c: c.http.delete("/sign-in", headers=FOREIGN),
}.items():
    SITUATIONS[id, "403"] = lambda c, o, call=call: call(c)  # type: ignore[misc]

PAGES = {
    "ChatPage": "/",
    "DocsPage": "/docs",
    "StatusPage": "/status",
    "SignInPage": "/sign-in",
    "File": "/static/openapi.json",
}
for page, address in PAGES.items():
    SITUATIONS[f"get{page}", "200"] = lambda c, o, at=address: c.http.get(at)  # type: ignore[misc]
    SITUATIONS[f"get{page}", "304"] = lambda c, o, at=address: revalidate(c, at)  # type: ignore[misc]
    SITUATIONS[f"head{page}", "200"] = lambda c, o, at=address: c.http.head(at)  # type: ignore[misc]
    SITUATIONS[f"head{page}", "304"] = lambda c, o, at=address: c.http.head(  # type: ignore[misc]
        at, headers={"If-None-Match": c.http.head(at).headers["ETag"]}
    )


@pytest.mark.parametrize(("id", "status"), SITUATIONS)
def test_a_response_matches_the_document(client: Client, ollama: ScriptedOllama, id: str, status: str) -> None:
    response = SITUATIONS[id, status](client, ollama)
    assert status in (str(response.status_code), "default"), response.text
    assert status in operation(id)["responses"]
    check_response(id, response)


LIMITED = {"408", "414", "429", "431"}
"""Covered below, and 408 in tests/web/test_request_limits.py, which sends requests slowly."""


def test_every_documented_response_is_covered() -> None:
    """All but those of a failing server, and those that tests/web/test_authentication.py or tests/test_summaries.py
    covers."""
    documented = {(id, status) for id in OPERATIONS.keys() - ENDLESS for status in operation(id)["responses"]}
    elsewhere = {("signIn", "200"), ("getMetrics", "403"), ("headMetrics", "403"), ("putSummary", "204")}
    uncovered = documented - SITUATIONS.keys() - elsewhere
    assert {status for _, status in uncovered} <= {"401", "413", "500", "503", "default", *LIMITED}, uncovered


def test_the_responses_413_and_503_match_the_document(
    start_chatterd: Callable[..., Program], database_url: str
) -> None:
    client = Client(start_chatterd(database_url=database_url, max_body_bytes=1000, max_replies=0).url)
    with client.http:
        for id, content, status in [
            ("beginReply", b" " * 1001, 413),
            ("generate", b" " * 1001, 413),
            ("beginReply", json.dumps(client.body("hi")).encode(), 503),
        ]:
            response = post(client, OPERATIONS[id][0], content)
            assert response.status_code == status
            check_response(id, response)


def test_the_responses_414_429_and_431_match_the_document(
    start_chatterd: Callable[..., Program], database_url: str
) -> None:
    program = start_chatterd(database_url=database_url, requests_per_minute=1)
    with httpx.Client(base_url=program.url, verify=NO_TLS) as client:
        client.get("/models")
        for id, (path, method) in sorted(OPERATIONS.items()):
            path = path.replace("{", "").replace("}", "")
            statuses: dict[str, Any] = {
                "414": {"params": {"a": "x" * 9_000}},
                "431": {"headers": {"Cookie": "x" * 40_000}},
                "429": {},
            }
            for status in statuses.keys() & operation(id)["responses"].keys():
                response = client.request(method.upper(), path, **statuses[status])
                assert str(response.status_code) == status, (id, response.text)
                check_response(id, response)


@pytest.mark.expects_log("database", "presence session was lost", "pool connection floor")
def test_the_responses_without_database_match_the_document(
    start_chatterd: Callable[..., Program], database_url: str
) -> None:
    with CuttingProxy(database_url) as proxy:
        client = Client(start_chatterd(database_url=proxy.url, acquire_timeout=1).url)
        with client.http:
            proxy.cut()
            for id, path, method in [
                ("beginReply", "/llmchat", "POST"),
                ("getConversation", "/llmchat?appID=a", "GET"),
                ("deleteConversation", "/llmchat?appID=a", "DELETE"),
                ("getReply", UNKNOWN, "GET"),
                ("stopReply", UNKNOWN, "DELETE"),
                ("getReadiness", "/readyz", "GET"),
            ]:
                response = client.http.request(method, path, json=client.body("hi") if method == "POST" else None)
                assert response.status_code == 503, (id, response.text)
                check_response(id, response)
            proxy.restore()
