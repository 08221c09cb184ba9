"""Reading logs: which files belong to one, their lines, records in order, filters, questions.

Readers trust nothing that a log holds, and take it as it is while others write and rotate it.
Nothing here changes a log.
"""
