# expects: BRG101
# advice: await bridge.to_thread(log.error, 'payment %d failed', number)
# says: waiting
# before: logged
# also: BRG102
# prints: logged
"""A log handler that sends each record over the network, in the coroutine that logs."""

import logging
import logging.handlers
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import bridge

log = logging.getLogger("payments")


class Collector(BaseHTTPRequestHandler):
    def do_GET(self):
        time.sleep(0.7)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args):
        pass


async def pay(number):
    log.error("payment %d failed", number)  # <- BRG101
    print("logged")


with HTTPServer(("127.0.0.1", 0), Collector) as server:
    threading.Thread(target=server.serve_forever).start()
    log.addHandler(logging.handlers.HTTPHandler(f"127.0.0.1:{server.server_port}", "/log"))
    bridge.run(pay, 7)
    server.shutdown()
