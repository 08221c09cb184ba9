"""What becomes of a record: the caller, filters, coalescing, counting, numbering, write(2).

On the way of every request, in the worker's one thread. `log_state` is what is known of a log
besides its files.
"""
