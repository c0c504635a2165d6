# prints: b'ping' b'pong'
"""A peer that takes its time: the loop waits for it, and is not blocked."""

import asyncio

import bridge


async def answer(reader, writer):
    word = await reader.read(4)
    await asyncio.sleep(0.7)
    writer.write(b"pong")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    words.append(word)


async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"ping")
        reply = await reader.read()
        writer.close()
        await writer.wait_closed()
    await asyncio.sleep(0)
    print(*words, reply)


words = []
bridge.run(main)
