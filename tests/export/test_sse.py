"""Event streams: the hub on its own, with clients that read, lag, leave and come back."""

from __future__ import annotations

import asyncio
import json
import threading

from probe.export.sse import HEARTBEAT, EventClient, EventHub, EventStream, frame

LONG = 30.0


def parse(data: bytes) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in data.decode().strip().splitlines())


def numbers(frames: list[bytes]) -> list[int]:
    return [json.loads(parse(data)["data"])["n"] for data in frames]


async def take(client: EventClient, count: int) -> list[bytes]:
    return [await client.next(LONG) for _ in range(count)]


async def settled(hub: EventHub) -> None:
    """Let everything published so far reach the clients."""
    done = asyncio.Event()
    asyncio.get_running_loop().call_soon_threadsafe(done.set)
    await done.wait()


def attached(**options) -> EventHub:
    hub = EventHub(**options)
    hub.attach(lambda _callback: lambda: None)
    return hub


def test_a_frame_is_one_event_even_with_line_breaks_in_it():
    data = frame("outage", {"text": "a\nb", "city": "Zürich"}, "x-1")
    assert data.count(b"\n") == 4 and data.endswith(b"\n\n")
    assert parse(data)["event"] == "outage"
    assert parse(data)["id"] == "x-1"
    assert json.loads(parse(data)["data"]) == {"text": "a\nb", "city": "Zürich"}


def test_events_from_other_threads_reach_every_client_in_order():
    async def scenario():
        hub = attached()
        clients = [hub.join(), hub.join()]
        thread = threading.Thread(target=lambda: [hub.publish("outage", {"n": n}) for n in range(100)])
        thread.start()
        for client in clients:
            assert numbers(await take(client, 100)) == list(range(100))
        thread.join()

    asyncio.run(scenario())


def test_a_slow_client_is_told_and_cut_off_while_others_go_on():
    async def scenario():
        hub = attached(queue_size=4)
        slow, quick = hub.join(), hub.join()
        got = []
        for n in range(10):
            hub.publish("outage", {"n": n})
            got += await take(quick, 1)
        assert numbers(got) == list(range(10))
        (told,) = await take(slow, 1)
        assert parse(told)["event"] == "dropped"
        assert json.loads(parse(told)["data"])["lost"] == 10
        assert await slow.next(LONG) is None

    asyncio.run(scenario())


def test_silence_is_filled_with_comments():
    async def scenario():
        client = attached().join()
        assert await client.next(0.001) == HEARTBEAT
        assert HEARTBEAT.startswith(b":") and HEARTBEAT.endswith(b"\n\n")

    asyncio.run(scenario())


def test_a_client_that_comes_back_gets_what_it_missed():
    async def scenario():
        hub = attached()
        client = hub.join()
        for n in range(5):
            hub.publish("outage", {"n": n})
        last = parse((await take(client, 2))[-1])["id"]
        hub.leave(client)
        assert numbers(await take(hub.join(last), 3)) == [2, 3, 4]

    asyncio.run(scenario())


def test_a_client_that_comes_back_too_late_is_told():
    async def scenario():
        hub = attached(kept=3)
        client = hub.join()
        hub.publish("outage", {"n": 0})
        last = parse((await take(client, 1))[0])["id"]
        for n in range(1, 10):
            hub.publish("outage", {"n": n})
        await settled(hub)
        missed, *rest = await take(hub.join(last), 4)
        assert parse(missed)["event"] == "missed"
        assert numbers(rest) == [7, 8, 9]
        # A number of another life of the agent says nothing about this one.
        assert parse((await take(hub.join("0badcafe-9"), 1))[0])["event"] == "missed"

    asyncio.run(scenario())


def test_a_client_that_missed_nothing_is_not_told_otherwise():
    async def scenario():
        hub = attached()
        client = hub.join()
        hub.publish("outage", {"n": 0})
        last = parse((await take(client, 1))[0])["id"]
        assert await hub.join(last).next(0.001) == HEARTBEAT
        assert await hub.join("nonsense").next(0.001) == HEARTBEAT

    asyncio.run(scenario())


def test_too_many_clients_are_refused_until_one_leaves():
    async def scenario():
        hub = attached(max_clients=1)
        first = hub.join()
        assert hub.join() is None
        hub.leave(first)
        assert hub.join() is not None

    asyncio.run(scenario())


def test_closing_ends_streams_and_refuses_new_ones():
    async def scenario():
        ended = []
        hub = EventHub()
        detach = hub.attach(lambda _callback: lambda: ended.append(True))
        client = hub.join()
        hub.publish("outage", {"n": 1})
        await settled(hub)
        detach()
        assert numbers(await take(client, 1)) == [1]
        assert await client.next(LONG) is None
        assert hub.join() is None and ended == [True]

    asyncio.run(scenario())


def test_publishing_without_or_after_a_loop_is_harmless():
    hub = EventHub()
    hub.publish("outage", {})

    async def scenario():
        hub.attach(lambda _callback: None)

    asyncio.run(scenario())
    hub.publish("outage", {})


def test_a_connection_that_takes_no_octets_is_given_up():
    async def scenario():
        hub = attached(write_timeout_s=0.01)
        never = asyncio.Event()

        async def stuck(message):
            if message["type"] == "http.response.body":
                await never.wait()

        async def receive():
            await never.wait()

        await asyncio.wait_for(EventStream(hub)({"type": "http", "method": "GET"}, receive, stuck), LONG)
        assert not hub._clients

    asyncio.run(scenario())


def test_a_client_that_goes_away_is_forgotten():
    async def scenario():
        hub = attached()

        async def send(_message):
            pass

        async def receive():
            return {"type": "http.disconnect"}

        await asyncio.wait_for(EventStream(hub)({"type": "http", "method": "GET"}, receive, send), LONG)
        assert not hub._clients

    asyncio.run(scenario())
