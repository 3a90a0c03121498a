"""Change events of Salesforce over CometD: what a client written by others hears, and what the plain protocol says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.patience import until
from tests.simulators.orgs import Org, org

aiosfstream = pytest.importorskip(
    "aiosfstream_ng", reason="the clients written by others are not installed: make .venv/.clients"
)
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:aiocometd_ng",
    "ignore::DeprecationWarning:aiosfstream_ng",
    "ignore::DeprecationWarning:aiohttp",
)
DEADLINE_S = 60.0


@pytest.fixture
def sf() -> Iterator[Org]:
    with org(poll_s="20") as serving:
        yield serving


def listening(sf: Org, work: Callable[[Any], Awaitable[None]], replay: Any = -1, **more: Any) -> None:
    """Let a client that has shaken hands do something."""

    class Signed(aiosfstream.RefreshTokenAuthenticator):  # type: ignore[misc, name-defined]
        _token_url = f"{sf.http}/services/oauth2/token"

    async def run() -> None:
        c = sf.credentials
        signed = Signed(c["client_id"], c["client_secret"], c["refresh_token"])
        if isinstance(replay, int):
            more["replay"] = aiosfstream.ReplayOption(replay)
        else:
            more["replay"] = replay
        async with asyncio.timeout(DEADLINE_S), aiosfstream.Client(signed, **more) as client:
            await work(client)

    asyncio.run(run())


def header(message: dict[str, Any]) -> dict[str, Any]:
    got: dict[str, Any] = message["data"]["payload"]["ChangeEventHeader"]
    return got


def test_a_client_hears_what_changes_and_who_changed_it(sf: Org) -> None:
    async def work(client: Any) -> None:
        await client.subscribe("/data/ContactChangeEvent")

        def change() -> str:
            with sf.signed_in(**{"Sforce-Call-Options": "client=tidelock"}) as ours:
                made = ours.post(
                    "/sobjects/Contact", json={"LastName": "A", "FirstName": "Ada", "MailingCity": "Graz"}
                ).json()["id"]
                ours.patch(f"/sobjects/Contact/{made}", json={"FirstName": None, "Phone": "1"})
            sf.act("/edit/Contact", [{"id": made, "Phone": "2"}])
            sf.act("/delete/Contact", [made])
            sf.act("/undelete/Contact", [made])
            sf.load("Account", {"Name": "not listened to"})
            sf.load("Contact", {"LastName": "B"})
            return str(made)

        made = await asyncio.to_thread(change)
        heard = [await client.receive() for _ in range(6)]
        assert [header(m)["changeType"] for m in heard] == [
            "CREATE",
            "UPDATE",
            "UPDATE",
            "DELETE",
            "UNDELETE",
            "CREATE",
        ]
        created, changed, edited = heard[:3]
        assert created["channel"] == "/data/ContactChangeEvent"
        assert header(created)["recordIds"] == [made]
        assert header(created)["changeOrigin"] == "com/salesforce/api/rest/68.0;client=tidelock"
        assert header(created)["commitUser"] == sf.credentials["user_id"]
        assert created["data"]["payload"]["Name"] == {"LastName": "A", "FirstName": "Ada"}
        assert created["data"]["payload"]["MailingAddress"] == {"City": "Graz"}
        assert header(changed)["changedFields"][:2] == ["Name.FirstName", "Phone"]
        assert header(changed)["nulledFields"] == ["Name.FirstName"]
        assert set(changed["data"]["payload"]) <= {"ChangeEventHeader", "Name", "Phone", "LastModifiedDate"}
        assert (header(edited)["changeOrigin"], header(edited)["commitUser"] == sf.credentials["user_id"]) == (
            "",
            False,
        )
        replays = [m["data"]["event"]["replayId"] for m in heard]
        assert replays == sorted(replays)
        assert heard[5]["data"]["payload"]["Name"] == {"LastName": "B"}

    listening(sf, work)


def test_all_that_is_kept_comes_again_or_what_came_after_an_id(sf: Org) -> None:
    sf.load("Contact", {"LastName": "A"})
    sf.load("Account", {"Name": "B"})
    marks: dict[str, Any] = {}

    async def everything(client: Any) -> None:
        await client.subscribe("/data/ChangeEvents")
        heard = [await client.receive() for _ in range(2)]
        assert [header(m)["entityName"] for m in heard] == ["Contact", "Account"]
        marks["/data/ChangeEvents"] = aiosfstream.ReplayMarker("1", heard[0]["data"]["event"]["replayId"])

    async def rest(client: Any) -> None:
        await client.subscribe("/data/ChangeEvents")
        assert header(await client.receive())["entityName"] == "Account"

    listening(sf, everything, -2)
    listening(sf, rest, dict(marks))


def test_after_three_days_an_id_is_refused_and_the_client_falls_back(sf: Org) -> None:
    sf.load("Contact", {"LastName": "A"})
    old = sf.control.get("/events").json()[0]["event"]["replayId"]
    sf.advance(3 * 86400 + 1)
    sf.load("Contact", {"LastName": "B"})
    channel = "/data/ContactChangeEvent"
    mark = {channel: aiosfstream.ReplayMarker("1", old - 1)}

    async def refused(client: Any) -> None:
        with pytest.raises(aiosfstream.exceptions.ServerError) as error:
            await client.subscribe(channel)
        assert error.value.error.startswith(f"400::The replayId {{{old - 1}}} you provided was invalid")

    async def falls_back(client: Any) -> None:
        await client.subscribe(channel)
        assert (await client.receive())["data"]["payload"]["Name"] == {"LastName": "B"}

    listening(sf, refused, dict(mark))
    listening(sf, falls_back, dict(mark), replay_fallback=aiosfstream.ReplayOption.ALL_EVENTS)


def test_a_client_that_is_forgotten_or_whose_token_ends_comes_back(sf: Org) -> None:
    async def work(client: Any) -> None:
        await client.subscribe("/data/ContactChangeEvent")
        await asyncio.to_thread(sf.fault, "unknown_client")
        await asyncio.to_thread(sf.load, "Contact", {"LastName": "A"})
        first = asyncio.create_task(client.receive())
        while not first.done():  # it may come back just after one: then that one is lost to it, as to a real client
            await asyncio.to_thread(sf.load, "Contact", {"LastName": "B"})
            await asyncio.wait([first], timeout=0.05)
        await first

        def settled() -> bool:
            return any(li["polling"] and li["channels"] for li in sf.control.get("/listeners").json())

        await asyncio.to_thread(until, settled)
        await asyncio.to_thread(sf.act, "/tokens/expire", None)
        second = asyncio.create_task(client.receive())
        await asyncio.to_thread(sf.load, "Contact", {"LastName": "C"})
        await second

    listening(sf, work)


# The plain protocol.


class Bayeux:
    """A client that says just what it is told to."""

    def __init__(self, sf: Org) -> None:
        self.sf = sf
        self.headers = {"authorization": sf.client.headers["authorization"]}
        self.id = ""

    def say(self, channel: str, version: str = "60.0", **more: Any) -> list[dict[str, Any]]:
        message = {"channel": channel, "id": "1", "clientId": self.id, **more}
        got = httpx.post(f"{self.sf.http}/cometd/{version}", json=[message], headers=self.headers, timeout=DEADLINE_S)
        out: list[dict[str, Any]] = got.json()
        return out

    def shake(self) -> dict[str, Any]:
        got = self.say("/meta/handshake", version_="1.0", supportedConnectionTypes=["long-polling"])[0]
        self.id = got.get("clientId", "")
        return got


@pytest.fixture
def bayeux(sf: Org) -> Bayeux:
    return Bayeux(sf)


def test_hands_are_shaken_only_with_a_token(bayeux: Bayeux) -> None:
    got = bayeux.shake()
    assert (got["successful"], got["supportedConnectionTypes"], got["ext"]["replay"]) == (True, ["long-polling"], True)
    bayeux.headers = {"authorization": "Bearer wrong"}
    got = bayeux.shake()
    assert (got["successful"], got["error"], got["advice"]["reconnect"]) == (
        False,
        "401::Authentication invalid",
        "none",
    )
    assert got["ext"]["sfdc"]["failureReason"] == "401::Authentication invalid"


def test_channels_that_are_not_there_and_clients_that_are_not_known(bayeux: Bayeux) -> None:
    bayeux.shake()
    got = bayeux.say("/meta/subscribe", subscription="/data/NothingChangeEvent")[0]
    assert (got["successful"], got["error"][:5]) == (False, "404::")
    assert bayeux.say("/meta/subscribe", subscription="/data/ChangeEvents")[0]["successful"] is True
    assert bayeux.sf.control.get("/listeners").json()[0]["channels"] == ["/data/ChangeEvents"]
    assert bayeux.say("/meta/unsubscribe", subscription="/data/ChangeEvents")[0]["successful"] is True
    assert bayeux.say("/meta/disconnect")[0]["successful"] is True
    got = bayeux.say("/meta/connect", connectionType="long-polling")[0]
    assert (got["error"], got["advice"]["reconnect"]) == ("403::Unknown client", "handshake")


def test_gaps_and_overflows_tell_ids_or_nothing(bayeux: Bayeux) -> None:
    sf = bayeux.sf
    ids = sf.load("Contact", {"LastName": "A"}, {"LastName": "B"})
    bayeux.shake()
    bayeux.say("/meta/connect", connectionType="long-polling")
    bayeux.say("/meta/subscribe", subscription="/data/ContactChangeEvent")
    sf.fault("gap")
    sf.act("/edit/Contact", [{"id": i, "Phone": "1"} for i in ids])
    sf.fault("overflow")
    sf.act("/edit/Contact", [{"id": i, "Phone": "2"} for i in ids])
    *events, answer = bayeux.say("/meta/connect", connectionType="long-polling")
    assert answer["successful"] is True
    gap, overflow = (header(e) for e in events)
    assert (gap["changeType"], gap["recordIds"]) == ("GAP_UPDATE", ids)
    assert (overflow["changeType"], overflow["recordIds"]) == ("GAP_OVERFLOW", ["003*"])
    assert all(set(e["data"]["payload"]) == {"ChangeEventHeader"} for e in events)


def test_records_changed_alike_in_one_transaction_share_an_event(sf: Org) -> None:
    ids = sf.load("Contact", {"LastName": "A"}, {"LastName": "B"}, {"LastName": "C"})
    records = [{"attributes": {"type": "Contact"}, "id": i, "Phone": "1" if i != ids[1] else "2"} for i in ids]
    sf.client.patch("/composite/sobjects", json={"records": records})
    events = [e["payload"]["ChangeEventHeader"] for e in sf.control.get("/events").json()][3:]
    assert [e["recordIds"] for e in events] == [[ids[0], ids[2]], [ids[1]]]
    assert [e["sequenceNumber"] for e in events] == [1, 2]
    assert len({e["transactionKey"] for e in events}) == len({e["commitNumber"] for e in events}) == 1
