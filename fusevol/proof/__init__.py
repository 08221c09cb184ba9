"""Proving a log: a changed, removed or inserted record of a chained log is found.

keys      the secret of this host, and the keys that are made of it
ledger    what is kept beside the key: the newest checkpoint, what was removed on purpose
sealer    the writer's side: gives each record its hash, signs checkpoints
verifier  the reader's side: finds the first record that is not as it was written

What a record's `hash` is made of is in `record.links`.
"""
