"""`fusevol top`: what happens on all volumes right now.

    mounts     which mounts there are, and their counters
    newlines   what comes into their logs, as much of it as there is time for
    activity   what both come to: how often, how long, how much
    collector  a frame of all that, at each interval
    views      a frame as tables: columns, order, filter
    plain      tables as text and JSON
    app        tables on a terminal, with keys; the only module that needs Textual

Nothing here writes to a volume, a log or a recovery state, nor asks a worker anything.
"""
