"""Worker processes: the parent's side here, the worker's side in `worker`, what both speak in `wire`.

executor ── Job ──> crew ── chooses ──> member ══ JOB frame ══> worker/line ──> worker/running: the function
             ^        │ lives on            ║                        │
             │        └ home (a loop)       ╚══ RESULT, ITEM, LOG, CALL frames <══ outbox
             └── deliver ──────────────────────┘        └──> calls: portal calls onto the job's own loop
"""
