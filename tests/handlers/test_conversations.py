"""GET and DELETE /llmchat?appID=...: pages of a conversation's messages, and their deletion."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from tests.client import Client
from tests.database import reply_row, rows
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, failure, last_line, line


def contents(page: dict[str, object]) -> list[str]:
    messages = page["messages"]
    assert isinstance(messages, list)
    return [message["content"] for message in messages]


def fill(client: Client, count: int) -> list[str]:
    """Store ``count`` messages, the last of them the assistant's; return their contents."""
    prompts = [f"m{number}" for number in range(count - 1)]
    client.ask(*prompts, options={"num_predict": 1})
    return [*prompts, "w0 "]


def delete(client: Client, **query: int) -> int:
    return client.http.delete("/llmchat", params={"appID": client.appid, **query}).status_code


# Reading.


def test_messages_are_returned_oldest_first_with_sequence_number_id_and_time(client: Client) -> None:
    path = client.begin("hi", "there")
    client.view(path)
    history = client.history()
    assert list(history) == ["appID", "messages", "reply", "context", "summary", "before"]
    assert (history["appID"], history["reply"], history["before"]) == (client.appid, None, None)
    messages = history["messages"]
    assert [list(message) for message in messages] == [["seq", "id", "role", "content", "time"]] * 3
    assert [(message["role"], message["content"]) for message in messages] == [
        ("user", "hi"),
        ("user", "there"),
        ("assistant", "w0 w1 w2 w3 w4 "),
    ]
    seqs = [message["seq"] for message in messages]
    assert seqs == sorted(set(seqs))
    assert len({UUID(message["id"]) for message in messages}) == 3
    assert messages[2]["id"] == path.removeprefix("/llmchat/")
    times = [datetime.fromisoformat(message["time"]) for message in messages]
    assert times == sorted(times)
    assert abs((datetime.now(UTC) - times[0]).total_seconds()) < 60


def test_a_conversation_is_json_that_must_not_be_cached(client: Client) -> None:
    response = client.http.get("/llmchat", params={"appID": client.appid})
    assert response.headers["Content-Type"] == "application/json; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-store"


def check_empty(client: Client) -> None:
    """Check that nothing is known of the conversation."""
    assert client.history() == {
        "appID": client.appid,
        "messages": [],
        "reply": None,
        "context": None,
        "summary": None,
        "before": None,
    }


def test_an_unknown_conversation_is_empty(client: Client) -> None:
    check_empty(client)


def test_pages_of_50_messages_lead_back_to_the_first_message(client: Client) -> None:
    stored = fill(client, 120)
    page = client.history()
    assert contents(page) == stored[70:]
    assert page["before"] == page["messages"][0]["seq"]
    page = client.history(before=page["before"])
    assert contents(page) == stored[20:70]
    page = client.history(before=page["before"])
    assert (contents(page), page["before"]) == (stored[:20], None)
    assert contents(client.history(before=page["messages"][0]["seq"])) == []


@pytest.mark.parametrize(("limit", "older"), [(1, True), (2, True), (4, True), (5, False), (6, False)])
def test_a_page_has_the_requested_size_and_a_cursor_if_there_is_more(client: Client, limit: int, older: bool) -> None:
    stored = fill(client, 5)
    page = client.history(limit=limit)
    assert contents(page) == stored[-limit:]
    assert page["before"] == (page["messages"][0]["seq"] if older else None)


def test_a_limit_beyond_500_is_500(client: Client) -> None:
    stored = fill(client, 502)
    for limit in (500, 501, 10**17):
        page = client.history(limit=limit)
        assert contents(page) == stored[2:]
        assert contents(client.history(limit=limit, before=page["before"])) == stored[:2]


@pytest.mark.parametrize("name", ["limit", "before", "from"])
@pytest.mark.parametrize("text", ["x", "-1", "1.5", "", "1e2", "9" * 30, "1;", "\0", "Ⅷ"])
def test_an_invalid_number_is_400_and_named(client: Client, name: str, text: str) -> None:
    client.ask("hi")
    response = client.http.request(
        "DELETE" if name == "from" else "GET", "/llmchat", params={"appID": client.appid, name: text}
    )
    assert response.status_code == 400
    assert name in response.json()["error"]
    assert len(client.messages()) == 2


def test_a_limit_of_0_is_an_error(client: Client) -> None:
    response = client.http.get("/llmchat", params={"appID": client.appid, "limit": 0})
    assert response.status_code in (400, 422)
    assert "limit" in response.json()["error"]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("query", ["", "?appID=", "?appid=x", "?appID=" + "x" * 156])
def test_a_missing_appid_is_422_and_named(client: Client, method: str, query: str) -> None:
    response = client.http.request(method, "/llmchat" + query)
    assert response.status_code == 422
    assert "appID" in response.json()["error"]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_an_appid_that_is_not_utf_8_is_400(client: Client, method: str) -> None:
    response = client.http.request(method, "/llmchat?appID=%ff")
    assert response.status_code == 400
    assert "appID" in response.json()["error"]


def test_the_streaming_reply_is_returned(client: Client, ollama: ScriptedOllama) -> None:
    gate = Gate()
    ollama.script(Head(), Lines(line("a")), gate, Lines(last_line()))
    path = client.begin("hi")
    reply = client.history()["reply"]
    assert reply.pop("context")["messages"] == 1
    assert reply == {"id": path.removeprefix("/llmchat/"), "status": "streaming"}
    assert client.messages() == [("user", "hi")]
    gate.open()
    client.view(path)
    assert client.history()["reply"] is None


def test_a_message_has_the_status_of_its_reply_unless_it_is_done(client: Client, ollama: ScriptedOllama) -> None:
    ollama.script(Head(), Lines(line("half")), Gate())
    path = client.begin("one")
    with client.follow(path) as stream:
        stream.next()
        assert client.http.delete(path).status_code == 202
        stream.rest()
    ollama.script(Head(), Lines(line("a bit"), b'{"error":"out of memory"}'))
    client.ask("two")
    ollama.script(Head(), Lines(line("cut")))
    client.ask("three")
    client.ask("four")
    messages = client.history()["messages"]
    ended = [(message.get("status"), message.get("error")) for message in messages]
    assert ended[::2] == [(None, None)] * 4
    assert ended[1::2] == [
        ("stopped", None),
        ("failed", "out of memory"),
        ("truncated", "Ollama's answer ended before it was complete. Ollama does this when a model repeats itself."),
        (None, None),
    ]
    assert "error" not in messages[1] and "status" not in messages[7]


def test_a_clients_own_fields_never_stand_for_the_servers(client: Client, ollama: ScriptedOllama) -> None:
    client.ask("before", options={"num_predict": 1})
    own = {"id": "mine", "seq": 0, "time": 7, "status": "done", "error": None, "extra": {"a": 1}}
    message = {"role": "user", "content": "hi", "tool_name": "f", "mood": "good"} | own
    assert client.http.post("/llmchat", json=client.body() | {"messages": [message]}).status_code == 200
    assert ollama.generations[1].json["messages"][-1] == message
    earlier = client.history()["messages"]
    stored, assistant = earlier[2:]
    assert UUID(stored["id"]) and datetime.fromisoformat(stored["time"])
    assert earlier[1]["seq"] < stored["seq"] < assistant["seq"]
    assert stored["extra"] == own
    assert (stored["tool_name"], stored["mood"]) == ("f", "good")
    assert not {"status", "error"} & stored.keys()
    assert not {"status", "error", "extra"} & assistant.keys()
    assert delete(client, **{"from": stored["seq"]}) == 204  # followed blindly, the client's own seq deleted everything
    assert client.history()["messages"] == earlier[:2]


def test_fields_of_an_assistants_message_that_a_client_sent_are_data_too(client: Client) -> None:
    sent = {"role": "assistant", "content": "Hello", "id": "msg-1", "status": "failed", "error": "none of ours"}
    body = client.body() | {"messages": [sent, {"role": "user", "content": "hi"}]}
    assert client.http.post("/llmchat", json=body).status_code == 200
    [first, *_] = client.history()["messages"]
    assert first["extra"] == {"id": "msg-1", "status": "failed", "error": "none of ours"}
    assert UUID(first["id"]) and not {"status", "error"} & first.keys()


@pytest.mark.parametrize(
    "tag", ["é😀", "a b+c&d=e%20#?/", "\t\r\n\x01\x7f", " ", "'; DROP TABLE chatts; --", "\u202e\u2028"]
)
def test_an_appid_may_have_any_characters(client: Client, tag: str) -> None:
    plain = client.appid
    client.appid = plain + tag
    client.ask("hi")
    assert client.history()["appID"] == plain + tag
    assert len(client.messages()) == 2
    client.appid = plain
    assert client.messages() == []
    client.appid = plain + tag
    assert delete(client) == 204
    assert client.messages() == []


def test_appids_are_compared_exactly(client: Client) -> None:
    plain = client.appid
    for tag in ("A", "a", "a ", "%", "_"):
        client.appid = plain + tag
        client.ask(tag)
    for tag in ("A", "a", "a ", "%", "_"):
        client.appid = plain + tag
        assert client.messages()[0] == ("user", tag) and len(client.messages()) == 2


# Deletion.


def test_deletion_removes_the_messages_replies_and_idempotency_keys(
    client: Client, ollama: ScriptedOllama, session_database_url: str
) -> None:
    headers = {"Idempotency-Key": "k"}
    ollama.script(failure(404, "no"))
    paths = []
    for prompt in ("fails", "works"):
        paths.append(client.begin(prompt, headers=headers if prompt == "works" else None))
        client.view(paths[-1])
    assert delete(client) == 204
    check_empty(client)
    for table in ("replies", "chatts"):
        assert rows(session_database_url, f"SELECT FROM {table} WHERE appid = $1", client.appid) == []
    for path in paths:
        assert client.http.get(path).status_code == 404
        assert client.http.delete(path).status_code == 404
    client.ask("new", headers=headers)
    assert len(ollama.generations) == 3
    assert ollama.generations[2].json["messages"] == [{"role": "user", "content": "new"}]


def test_deletion_leaves_other_conversations_unchanged(client: Client) -> None:
    other = Client(str(client.http.base_url), client.appid + "2")
    with other.http:
        path = other.begin("mine", headers={"Idempotency-Key": "k"})
        events = other.view(path)
        before = other.history()
        client.ask("hi", headers={"Idempotency-Key": "k"})
        assert delete(client) == 204
        assert other.history() == before
        assert other.view(path) == events
        assert other.ask("mine", headers={"Idempotency-Key": "k"}) == events


def test_deletion_is_idempotent(client: Client) -> None:
    assert delete(client) == 204
    client.ask("hi")
    assert [delete(client), delete(client)] == [204, 204]


@pytest.mark.parametrize(("number", "left"), [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)])
def test_from_deletes_a_message_and_all_after_it(client: Client, number: int, left: int) -> None:
    first = client.begin("one", options={"num_predict": 1})
    client.view(first)
    second = client.begin("two", options={"num_predict": 1})
    client.view(second)
    messages = client.history()["messages"]
    seq = messages[number]["seq"] if number < 4 else messages[-1]["seq"] + 1
    assert delete(client, **{"from": seq}) == 204
    assert client.history()["messages"] == messages[:left]
    assert client.http.get(first).status_code == (200 if left >= 2 else 404)
    assert client.http.get(second).status_code == (200 if left == 4 else 404)


def test_a_prompt_can_be_edited(client: Client, ollama: ScriptedOllama) -> None:
    client.ask("one", options={"num_predict": 1})
    client.ask("two", options={"num_predict": 1})
    seq = client.history()["messages"][2]["seq"]
    assert delete(client, **{"from": seq}) == 204
    client.ask("2", options={"num_predict": 1})
    assert [message["content"] for message in ollama.generations[2].json["messages"]] == ["one", "w0 ", "2"]
    assert [content for _, content in client.messages()] == ["one", "w0 ", "2", "w0 "]


@pytest.mark.parametrize("whole", [True, False])
def test_deletion_stops_the_streaming_reply_first(
    client: Client, ollama: ScriptedOllama, session_database_url: str, whole: bool
) -> None:
    ollama.script(Head(), Lines(line("half")), Gate())
    with client.prompt("hi") as stream:
        assert stream.next() is not None
        path = stream.response.headers["Content-Location"]
        seq = client.history()["messages"][0]["seq"]
        assert delete(client, **({} if whole else {"from": seq})) == 204
        ollama.arrival(0).wait().closed.wait()
        [last] = stream.rest()
    assert (last.json["done"], last.json["done_reason"]) == (True, "stopped")
    check_empty(client)
    assert client.http.get(path).status_code == 404


def test_deletion_after_the_last_message_only_stops_the_reply(
    client: Client, ollama: ScriptedOllama, session_database_url: str
) -> None:
    client.ask("one", options={"num_predict": 1})
    ollama.script(Head(), Lines(line("half")), Gate())
    with client.prompt("two") as stream:
        assert stream.next() is not None
        path = stream.response.headers["Content-Location"]
        seq = client.history()["messages"][2]["seq"]
        assert delete(client, **{"from": seq + 1}) == 204
        stream.rest()
    assert [content for _, content in client.messages()] == ["one", "w0 ", "two"]
    assert client.http.get(path).status_code == 404
    assert rows(session_database_url, "SELECT FROM replies WHERE appid = $1", client.appid)


def test_a_partly_deleted_conversation_keeps_its_earlier_replies(client: Client, session_database_url: str) -> None:
    path = client.begin("one", options={"num_predict": 1})
    before = client.view(path)
    client.ask("two")
    seq = client.history()["messages"][2]["seq"]
    assert delete(client, **{"from": seq}) == 204
    after = client.view(path)
    assert [event.json["message"]["content"] for event in after] in (["w0 ", ""], ["w0 "])
    assert after[-1].json["done"] is True and before[-1].json["done"] is True
    assert reply_row(session_database_url, path)["status"] == "done"
