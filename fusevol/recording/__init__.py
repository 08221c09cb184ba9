"""What becomes of a record: the caller, filters, coalescing, counting, numbering, write(2).

On the way of every request, in the worker's one thread. `log_state` is what is known of a log
besides its files.

    caller         which process and container made the call
    record_filter  whether a record is wanted
    recorder       finishes a request: counts it, has it written if wanted
    coalescing     one record for consecutive reads or writes
    writer         gives the record its number and writes it
"""
