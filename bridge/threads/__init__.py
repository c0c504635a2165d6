"""The ground floor: worker threads, the inbox that leads into a loop, and the portals that threads call through.

Nothing here knows which event loop it serves: a loop appears only as a `Host`.
"""
