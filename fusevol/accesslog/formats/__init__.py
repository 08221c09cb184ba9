"""The access record in the formats of others: one module each, with `encode` and `decode`.

`encode` makes one line of a record, without the newline; `decode` is its inverse. Both raise
MalformedRecordError and nothing else: for a record that the format cannot tell, and for a line that
is not in the format. No line holds a newline, whatever names the record has.
"""
