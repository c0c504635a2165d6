# expects: BRG501
# advice: with portal:
# says: portal was not closed, entered at
# stderr: ResourceWarning
# prints: sent
"""A portal that is entered, so that what is started through it is waited for, and never left: nobody waits."""

import bridge


async def send(mail):
    return mail


def send_all(mails):
    portal = bridge.portal()
    portal.__enter__()  # <- BRG501
    for mail in mails:
        portal.run_coroutine_threadsafe(send(mail))


async def main():
    await bridge.to_thread(send_all, ["hello", "good-bye"])
    print("sent")


bridge.run(main)
