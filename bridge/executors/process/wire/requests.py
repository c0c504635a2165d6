"""What a CALL frame asks for, and what its ANSWER says.

    CALL:    HEAD (operation and flags, number of the job that asks), TARGET for operations on a session, then a parcel
    ANSWER:  one byte of status, then a parcel or an error

A session is an async context manager or an iteration that is open on the loop; the worker chooses its number.
"""

from __future__ import annotations

from struct import Struct

HEAD: Struct = Struct("<BQ")
TARGET: Struct = Struct("<Q")

CALL = 0  #: (fn, args, kwargs): run it, await what it returns
SOON = 1  #: (callback, args): run it; there is no answer
CORO = 2  #: a coroutine: await it
CANCEL = 3  #: cancel the request of this number; it is answered when its clean-up is done
ENTER = 4  #: TARGET, async context manager: enter it
EXIT = 5  #: TARGET, error or nothing: leave it. Whether or not it was entered, the session is over
ITERATE = 6  #: TARGET, async iterable: begin, and give the first item
NEXT = 7  #: TARGET: give the next item
CLOSE = 8  #: TARGET: close the iterator. Whether or not it was begun, the session is over
LEND = 9  #: the job's own thread is going to wait for the answer to the CORO of this number; there is no answer
RECLAIM = 10  #: it has waited: answered when the job has its place back

OPERATION = 0x1F
#: The job's own thread waits for the answer, so its place is lent to another job meanwhile.
SLOT = 0x20
#: Cancelled together with the job.
CANCELLABLE = 0x40

VALUE = 0  #: parcel
ERROR = 1  #: `wire.errors`
END = 2  #: of the iteration; the session is over
