# expects: BRG101
# advice: await bridge.to_thread(
# says: waiting
# before: the answer: 42
# also: BRG102
# prints: the answer: 42
"""A synchronous HTTP client in a coroutine, as requests is; the server takes its time."""

import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

import bridge


class Slow(BaseHTTPRequestHandler):
    def do_GET(self):
        time.sleep(0.7)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"42")

    def log_message(self, *args):
        pass


async def fetch(url):
    with urllib.request.urlopen(url) as response:  # <- BRG101
        return response.read().decode()


async def main():
    print("the answer:", await fetch(f"http://127.0.0.1:{server.server_port}/"))


with HTTPServer(("127.0.0.1", 0), Slow) as server:
    threading.Thread(target=server.serve_forever).start()
    bridge.run(main)
    server.shutdown()
